"""A process with a transfer thread over memory that the test sees too; the test plays its engine core."""

from __future__ import annotations

import mmap
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from penstock.config import TransferConfig
from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.lease_table import LeaseTable
from penstock.kv_transfer.messages import Attached, Meet, Met, Pull, TransferInput, TransferLaunch, TransferOutput
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel

FINGERPRINT = "f" * 32
SECONDS = 20.0


class KvWorkerLaunch(msgspec.Struct, frozen=True, kw_only=True):
    config: TransferConfig
    transfer: TransferLaunch
    memory_file: str
    num_blocks: int
    block_bytes: int
    fd: int
    has_nixl: bool
    hurry: float  # its clock runs so many times as fast
    is_gpu: bool  # it calls its memory a GPU's


def map_memory(file: str, num_blocks: int, block_bytes: int) -> np.ndarray:
    with open(file, "r+b") as handle:
        return np.frombuffer(mmap.mmap(handle.fileno(), num_blocks * block_bytes), np.uint8).reshape(num_blocks, -1)


class KvWorker:
    """The attributes are what the engine core of this worker has: `memory`, `leases`, and the words both ways."""

    def __init__(
        self,
        folder: Path,
        role: str = "decode",
        *,
        num_blocks: int = 64,
        block_bytes: int = 100_000,
        is_tcp: bool = False,
        has_nixl: bool = True,
        hurry: float = 1.0,
        is_gpu: bool = False,
        **config,
    ):
        self.folder, self.is_tcp = folder, is_tcp
        number = secrets.token_hex(4)
        memory, leases = folder / f"memory-{number}", folder / f"leases-{number}"
        memory.write_bytes(bytes(num_blocks * block_bytes))
        self.memory = map_memory(str(memory), num_blocks, block_bytes)
        self.leases = LeaseTable(leases, is_new=True)
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        self.connection, self.channel = ours, Channel(ours)
        self._decoder = decoder(TransferOutput)
        launch = KvWorkerLaunch(
            config=TransferConfig(role=role, **config),
            transfer=TransferLaunch(session=number, fingerprint=FINGERPRINT, lease_file=str(leases)),
            memory_file=str(memory),
            num_blocks=num_blocks,
            block_bytes=block_bytes,
            fd=theirs.fileno(),
            has_nixl=has_nixl,
            hurry=hurry,
            is_gpu=is_gpu,
        )
        command = [sys.executable, __file__, msgspec.json.encode(launch).decode()]
        environment = os.environ | {"PYTHONWARNINGS": ""} | ({"UCX_TLS": "tcp"} if is_tcp else {})
        with theirs:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)

    @cached_property
    def first(self) -> TransferOutput:
        """Its first word; read late, so that several start at once."""
        return self.receive()

    @property
    def endpoint(self) -> KvEndpoint:
        assert isinstance(self.first, Attached)
        assert self.first.endpoint is not None
        return self.first.endpoint

    def fill(self, seed: int = 0) -> None:
        self.memory[:] = np.random.default_rng(seed).integers(0, 256, self.memory.shape, dtype=np.uint8)

    def send(self, message: TransferInput) -> None:
        self.channel.send(encode(message))

    def receive(self) -> TransferOutput:
        return self._decoder.decode(self.channel.receive())

    def call(self, message: TransferInput) -> TransferOutput:
        assert isinstance(self.first, Attached)
        self.send(message)
        return self.receive()

    def meet(self, other: KvWorker, number: int = 1) -> None:
        assert self.call(Meet(peer=number, endpoint=other.endpoint)) == Met(peer=number)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.channel.close()

    def close(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        try:
            self.process.wait(SECONDS)
        finally:
            self.process.kill()


def build_pull(number: int, remote, local, lease: tuple[int, int], *, checksums=(), peer: int = 1) -> Pull:
    return Pull(
        pull=number,
        peer=peer,
        remote=np.array(remote, dtype=np.int32),
        local=np.array(local, dtype=np.int32),
        checksums=list(checksums),
        lease=lease[0],
        epoch=lease[1],
    )


def main(word: str) -> None:
    from penstock import envs
    from penstock.kv_transfer.kv_blocks import HostBlocks, Place
    from penstock.kv_transfer.transfer_thread import TransferThread
    from penstock.logs import configure

    launch = msgspec.json.decode(word, type=KvWorkerLaunch)
    configure(f"kv-{launch.config.role}", "info")
    envs.prepare_nixl(is_local=True)
    assert "torch" not in sys.modules, "the transfer thread needs no torch"
    sys.modules["torch"] = None  # type: ignore[assignment]  # else NIXL imports it, only to look for CUDA: 2 seconds
    if not launch.has_nixl:
        sys.modules["nixl"] = None  # type: ignore[assignment]
    clock = lambda: time.monotonic() * launch.hurry  # noqa: E731
    connection = socket.socket(fileno=launch.fd)
    thread = TransferThread(connection, launch.config, launch.transfer, clock, may_use_gpu=launch.is_gpu)
    thread.start()
    blocks = HostBlocks(map_memory(launch.memory_file, launch.num_blocks, launch.block_bytes))
    if launch.is_gpu:
        blocks.place = Place("VRAM", 0)
    thread.attach(blocks)
    thread.join()


if __name__ == "__main__":
    main(sys.argv[1])
