"""The worker's transfer thread over fake devices: "memory" of all pods lies in one dictionary."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from zlib import crc32

from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.kv_transfer.messages import (
    Attached,
    Checksum,
    Checksums,
    Fetch,
    Fetched,
    LeaseReturned,
    Leave,
    Meet,
    Met,
    Pull,
    Pulled,
    ReturnLease,
    Store,
    Stored,
    TransferInput,
)
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel
from support.fake_device import FakeDevice

BLOCK_BYTES = 64


@dataclass
class Fabric:
    """Who can be read by whom."""

    workers: dict[str, ScriptedWorker] = field(default_factory=dict)  # by the name of its agent


class ScriptedWorker:
    """Answers the engine core from a thread of its own; the attributes say what goes wrong."""

    def __init__(self, fabric: Fabric, device: FakeDevice, table: LeaseTable | None, session: str, fingerprint: str):
        self.fabric, self.device, self.table = fabric, device, table
        self.agent = session
        self.peers: dict[int, str] = {}  # number -> agent
        self.log: list[TransferInput] = []
        self.stored: dict[bytes, list[int | None]] = {}
        self.is_spoiling = False  # what is READ is not what was there
        self.pull_problem = ""  # what a pull fails with
        self.is_pull_hanging = False  # a pull is not answered until `release`
        self.held: list[Pull] = []
        self.before_word = lambda: None  # called between the READ of the blocks and that of the lease's word
        ours, theirs = socket.socketpair()
        self.connection, self._channel = ours, Channel(theirs)
        self._decoder = decoder(TransferInput)
        endpoint = KvEndpoint(
            fingerprint=fingerprint,
            session=session,
            agent=self.agent,
            metadata=b"",
            base=1 << 20,
            block_bytes=BLOCK_BYTES,
            num_blocks=device.num_blocks,
            lease_base=1 << 30,
            num_leases=4096,
        )
        fabric.workers[self.agent] = self
        self._send(Attached(endpoint=endpoint))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """The connection must have been closed at the other end."""
        self._thread.join(5)
        assert not self._thread.is_alive(), "the link did not close the worker's socket"
        self._channel.close()
        self.fabric.workers.pop(self.agent, None)

    def release(self) -> None:
        """Now answer the pulls that hang: nothing writes any more."""
        self.is_pull_hanging = False
        for pull in self.held:
            self._send(Pulled(pull=pull.pull, why="given up"))
        self.held.clear()

    def block(self, block: int) -> list[int | None]:
        return [self.device.contents.get((block, at)) for at in range(self.device.block_size)]

    def checksum(self, block: int) -> int:
        return crc32(repr(self.block(block)).encode())

    def _send(self, message) -> None:
        self._channel.send(encode(message))

    def _run(self) -> None:
        try:
            while True:
                message = self._decoder.decode(self._channel.receive())
                self.log.append(message)
                self._handle(message)
        except EOFError:
            return

    def _handle(self, message: TransferInput) -> None:
        match message:
            case Meet():
                self.peers[message.peer] = message.endpoint.agent
                self._send(Met(peer=message.peer))
            case Leave():
                self.peers.pop(message.peer, None)
            case Pull() if self.is_pull_hanging:
                self.held.append(message)
                self._send(Pulled(pull=message.pull, why="timed out", is_over=False))
            case Pull():
                self._pull(message)
            case Checksum():
                values = [self.checksum(block) for block in message.blocks.tolist()]
                self._send(Checksums(call=message.call, values=values))
            case ReturnLease():
                if other := self.fabric.workers.get(self.peers.get(message.peer, "")):
                    other._send(LeaseReturned(lease=message.lease, epoch=message.epoch))
            case Store():
                self.stored |= {h: self.block(b) for h, b in zip(message.hashes, message.blocks.tolist(), strict=True)}
                self._send(Stored(call=message.call, stored=message.hashes, dropped=[]))
            case Fetch():
                self._fetch(message)

    def _pull(self, pull: Pull) -> None:
        other = self.fabric.workers.get(self.peers.get(pull.peer, ""))
        if other is None or self.pull_problem:
            self._send(Pulled(pull=pull.pull, why=self.pull_problem or "the peer is gone"))
            return
        for remote, local in zip(pull.remote.tolist(), pull.local.tolist(), strict=True):
            content = other.block(remote)
            self._write(local, [value ^ 1 for value in content] if self.is_spoiling else content)
        why = ""
        if any(self.checksum(int(pull.local[at])) != value for at, value in pull.checksums):
            why = "a checksum differs"
        self.before_word()
        if not other.table.is_good(pull.lease, pull.epoch):
            why = "the lease has ended"
        num_bytes = len(pull.local) * BLOCK_BYTES
        self._send(Pulled(pull=pull.pull, why=why, num_bytes=num_bytes, seconds=num_bytes / 2e9))

    def _fetch(self, fetch: Fetch) -> None:
        num_good = 0
        for name, block in zip(fetch.hashes, fetch.blocks.tolist(), strict=True):
            if name not in self.stored:
                break
            self._write(block, self.stored[name])
            num_good += 1
        self._send(Fetched(call=fetch.call, num_good=num_good))

    def _write(self, block: int, content: list[int | None]) -> None:
        self.device.contents |= {(block, at): value for at, value in enumerate(content)}
