"""What the supervisor gives its child processes to start with, and what they report back. JSON, nothing live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from penstock.config import EngineConfig


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One `penstock serve`, as its children read it from the run folder."""

    config: EngineConfig
    folder: str  # the resolved model
    max_model_len: int  # tokens; the engine may offer less, if memory is short and nobody asked for more
    run_dir: str  # 0700; holds the sockets

    def save(self) -> Path:
        """Write this into the run folder; returns the file."""
        file = self.run_path / "launch.json"
        file.write_bytes(msgspec.json.encode(self))
        return file

    @classmethod
    def load(cls, file: Path) -> Launch:
        """The reverse of `save`."""
        return msgspec.json.decode(file.read_bytes(), type=cls)

    @property
    def folder_path(self) -> Path:
        """The model's folder."""
        return Path(self.folder)

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.run_dir)

    def engine_address(self) -> str:
        """Where the engine core takes the messages of all front-ends."""
        return f"ipc://{self.run_dir}/engine"

    def client_address(self, client: int) -> str:
        """Where front-end number `client` takes the engine's and the supervisor's messages."""
        return f"ipc://{self.run_dir}/client-{client}"


def title_in_role(title: str, config: EngineConfig) -> str:
    """A process title such as `penstock:api-0` with the role of its pod, if it has one: `penstock:api-0:decode`."""
    role = config.transfer.role
    return title if role == "both" else f"{title}:{role}"


class EngineStarted(msgspec.Struct, frozen=True, kw_only=True, tag="engine-started"):
    """The engine core serves; what it learnt while loading."""

    num_blocks: int
    block_size: int  # tokens
    max_model_len: int  # tokens
    weights_bytes: int
    kv_bytes: int
    load_seconds: float


class ApiStarted(msgspec.Struct, frozen=True, kw_only=True, tag="api-started"):
    """A front-end accepts connections and has seen the engine ready."""


class ChildFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A child gives up: one line for a person, and the exit code that belongs to it."""

    message: str
    exit_code: int


Report = EngineStarted | ApiStarted | ChildFailed


class ReportWriter:
    """The child's end of its report pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, report: Report) -> None:
        """Hand one report to the supervisor; harmless when it is gone."""
        try:
            os.write(self._descriptor, msgspec.json.encode(report) + b"\n")
        except BrokenPipeError:
            return  # the supervisor died, and with it soon this process


class ReportReader:
    """The supervisor's end of a child's report pipe."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._partial = b""
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Report)

    def read(self) -> list[Report]:
        """All complete reports that have arrived since the last call."""
        while True:
            try:
                data = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            if not data:
                break
            self._partial += data
        *lines, self._partial = self._partial.split(b"\n")
        return [self._decoder.decode(line) for line in lines]

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
