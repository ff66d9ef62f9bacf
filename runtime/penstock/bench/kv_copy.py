"""How fast KV blocks move between two processes: NIXL alone, and our whole pull, in the same run over the same bytes.

NIXL alone is its own agents, the reading side polling all the time, one descriptor per block or one for all. A pull is
what the engine core asks of its worker's transfer thread: message, READs in slices, one block in sixteen compared with
its checksum, the lease's word, answer.
"""

from __future__ import annotations

import itertools
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock import envs
from penstock.bench.report import Row
from penstock.config import TransferConfig
from penstock.errors import PenstockError
from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.kv_blocks import HostBlocks
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.kv_transfer.messages import Attached, Meet, Pull, Pulled, TransferLaunch, TransferOutput, Unattached
from penstock.kv_transfer.nixl import LOCAL, NixlAgent, import_nixl
from penstock.kv_transfer.transfer_thread import TransferThread
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel

BLOCK_BYTES = 30 * 2 * 3 * 16 * 64 * 4  # of the embedded model in float32
NUM_BLOCKS = 256
SAMPLE = 16  # one block in so many is compared
ROUNDS = 15
PAUSE_SECONDS = 0.0002  # of the plain lender between polls: with it, TCP was faster than without
TARGET = 0.85  # of what NIXL's own copy reaches
LINKS = {"shared memory": [], "TCP": ["env", "UCX_TLS=tcp"]}


class Lent(msgspec.Struct, frozen=True, kw_only=True):
    """What the lending process says about itself."""

    endpoint: KvEndpoint  # of its transfer thread
    metadata: bytes  # of its plain agent
    base: int
    lease: tuple[int, int]
    checksums: list[int]  # of all blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """The medians of all rounds, GB/s."""

    ours: float
    by_block: float
    in_one: float


def copy_rows() -> list[Row]:
    """One row per link: our pull, beside NIXL's own READ of the same blocks. Raises `PenstockError`."""
    rows = []
    for link, prefix in LINKS.items():
        speeds = measure(prefix)
        rows.append(
            Row(
                name=f"KV pull, {link}",
                value=speeds.ours,
                unit="GB/s",
                peer=speeds.by_block,
                note=f"peer: NIXL alone, the same blocks; {speeds.in_one:.2f} as one piece; target {TARGET:.0%}",
            )
        )
    return rows


def measure(prefix: list[str]) -> Speeds:
    """Run the two processes, with `prefix` before their command lines."""
    command = [*prefix, sys.executable, "-P", "-m", "penstock.bench.kv_copy"]
    done = subprocess.run([*command, "pull"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise PenstockError(f"the copying process failed with exit code {done.returncode}")
    return Speeds(**json.loads(done.stdout.splitlines()[-1]))


def lend() -> None:
    """The lending process: serves the pull's thread by itself, and the plain agent while it is told so."""
    memory = np.random.default_rng(0).integers(0, 256, (NUM_BLOCKS, BLOCK_BYTES), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder, transfer_thread("prefill", memory, Path(folder)) as (table, channel):
        attached = first_word(channel)
        assert attached.endpoint is not None, "a lender without endpoint"
        plain = NixlAgent(import_nixl(), f"plain-{secrets.token_hex(8)}")
        plain.register(memory.ctypes.data, memory.nbytes)
        lease = table.grant(time.monotonic())
        assert lease is not None, "no lease in a new table"
        lent = Lent(
            endpoint=attached.endpoint,
            metadata=plain.metadata(),
            base=memory.ctypes.data,
            lease=lease,
            checksums=[checksum_of(block) for block in memory],
        )
        inbox = socket.socket(fileno=0)  # standard input
        inbox.sendall(b"%d\n" % len(data := msgspec.msgpack.encode(lent)) + data)
        is_plain = True
        while word := receive(inbox, waits=not is_plain):
            is_plain = {b"p": True, b"o": False, b"-": is_plain}[word]
            plain.poll()
            time.sleep(PAUSE_SECONDS)


def receive(inbox: socket.socket, *, waits: bool) -> bytes:
    """The next byte, "-" if there is none and nobody `waits`; nothing when the other side is gone."""
    try:
        return inbox.recv(1, 0 if waits else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b"-"


@contextmanager
def transfer_thread(role: str, memory: NDArray[np.uint8], folder: Path) -> Iterator[tuple[LeaseTable, Channel]]:
    """A transfer thread over `memory`, as a worker has one, and the engine core's end of its channel."""
    table = LeaseTable(folder / "leases", is_new=True)
    ours, theirs = socket.socketpair()
    launch = TransferLaunch(session=secrets.token_hex(8), fingerprint="bench", lease_file=str(folder / "leases"))
    thread = TransferThread(theirs, TransferConfig(role=role), launch)
    thread.start()
    thread.attach(HostBlocks(memory))
    channel = Channel(ours)
    try:
        yield table, channel
    finally:
        channel.close()
        thread.join()


def first_word(channel: Channel) -> Attached:
    """The thread's first word. Raises `PenstockError` if it cannot work."""
    answer = decoder(TransferOutput).decode(channel.receive())
    if isinstance(answer, Unattached):
        raise PenstockError(answer.why)
    assert isinstance(answer, Attached), f"the first word was {type(answer).__name__}"
    return answer


def pull() -> Speeds:
    """The pulling process: all ways in turn, in every round."""
    memory = np.ones((NUM_BLOCKS, BLOCK_BYTES), dtype=np.uint8)  # written once: no page is new any more
    here, there = socket.socketpair()
    lender = subprocess.Popen([sys.executable, "-P", "-m", "penstock.bench.kv_copy", "lend"], stdin=there.fileno())
    with tempfile.TemporaryDirectory() as folder, transfer_thread("decode", memory, Path(folder)) as (_, channel), here:
        there.close()
        first_word(channel)
        with here.makefile("rb") as stream:
            size = int(stream.readline())
            lent = msgspec.msgpack.decode(stream.read(size), type=Lent)
        order = np.random.default_rng(1).permutation(NUM_BLOCKS).astype(np.int32)
        ours = pull_by_thread(channel, lent, order)
        by_block, in_one = copies_by_nixl(memory, lent, order)
        found: dict[str, list[float]] = {"ours": [], "by_block": [], "in_one": []}
        for _ in range(ROUNDS):
            for name, word, copy in (("by_block", b"p", by_block), ("in_one", b"p", in_one), ("ours", b"o", ours)):
                here.sendall(word)
                time.sleep(0.02)
                begin = time.perf_counter()
                copy()
                found[name].append(memory.nbytes / (time.perf_counter() - begin) / 1e9)
    lender.wait()
    return Speeds(**{name: median(speeds) for name, speeds in found.items()})


def pull_by_thread(channel: Channel, lent: Lent, order: NDArray[np.int32]) -> Callable[[], None]:
    """What an engine core does."""
    answers, numbers = decoder(TransferOutput), itertools.count(1)
    channel.send(encode(Meet(peer=1, endpoint=lent.endpoint)))
    answers.decode(channel.receive())
    checksums = [(place, lent.checksums[order[place]]) for place in range(0, NUM_BLOCKS, SAMPLE)]
    local, (lease, epoch) = np.arange(NUM_BLOCKS, dtype=np.int32), lent.lease

    def copy() -> None:
        asked = Pull(
            pull=next(numbers), peer=1, remote=order, local=local, checksums=checksums, lease=lease, epoch=epoch
        )
        channel.send(encode(asked))
        answer = answers.decode(channel.receive())
        if not isinstance(answer, Pulled) or answer.why:
            raise PenstockError(f"a pull failed: {answer}")

    return copy


def copies_by_nixl(
    memory: NDArray[np.uint8], lent: Lent, order: NDArray[np.int32]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """One READ of all blocks, and one READ of the whole memory."""
    agent = NixlAgent(import_nixl(), f"plain-{secrets.token_hex(8)}")
    agent.register(memory.ctypes.data, memory.nbytes)
    peer = agent.add(lent.metadata)

    def build(width: int, parts: NDArray[np.int32]) -> Callable[[], None]:
        count = memory.nbytes // width
        ours = agent.list_parts(LOCAL, memory.ctypes.data, width, count=count, stride=width)
        theirs = agent.list_parts(peer, lent.base, width, count=count, stride=width)

        def copy() -> None:
            read = agent.read(ours, np.arange(count, dtype=np.int32), theirs, parts)
            while not read.poll():
                pass
            if read.why:
                raise PenstockError(read.why)

        return copy

    return build(BLOCK_BYTES, order), build(memory.nbytes, np.zeros(1, dtype=np.int32))


def main(words: list[str]) -> None:
    """`pull` prints `Speeds` as JSON; `lend` is its other process."""
    envs.prepare_nixl(is_local=True)
    if words == ["lend"]:
        lend()
    else:
        speeds = pull()
        print(json.dumps({"ours": speeds.ours, "by_block": speeds.by_block, "in_one": speeds.in_one}))


if __name__ == "__main__":
    main(sys.argv[1:])
