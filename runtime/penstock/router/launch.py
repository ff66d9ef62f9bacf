"""What the supervisor of a router gives its workers to start with."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock.router.config import RouterConfig

FILE = "launch.json"


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One `penstock route`, as its workers read it from the run folder."""

    config: RouterConfig
    version: str  # of Penstock
    run_dir: str  # 0700; holds sockets and counters

    def save(self) -> Path:
        """Write this into the run folder; returns the file."""
        file = Path(self.run_dir) / FILE
        file.write_bytes(msgspec.json.encode(self))
        return file

    @classmethod
    def load(cls, file: Path) -> Launch:
        """The reverse of `save`."""
        return msgspec.json.decode(file.read_bytes(), type=cls)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerArguments:
    """The command line of a worker."""

    launch: Path
    parent: int  # process id of the supervisor
    report_fd: int  # a byte is written here when the worker serves
    slot: int  # N of `penstock:router-N`
    listen_fd: int

    def to_words(self) -> list[str]:
        """As words of a command line."""
        return [f"--{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self)]

    @classmethod
    def parse(cls, words: Sequence[str]) -> WorkerArguments:
        """The reverse of `to_words`."""
        parser = argparse.ArgumentParser(description="started by `penstock route`")
        parser.add_argument("--launch", type=Path, required=True)
        for name in ("parent", "report_fd", "slot", "listen_fd"):
            parser.add_argument(f"--{name}", type=int, required=True)
        return cls(**vars(parser.parse_args(words)))
