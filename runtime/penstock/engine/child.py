"""How a child process begins: its title, its arguments, and the promise not to outlive its supervisor."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import setproctitle

from penstock.engine.launch import Launch, ReportWriter, title_in_role
from penstock.lifetime import die_with_parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildArguments:
    """The command line that the supervisor gives every child."""

    launch: Path  # the file that `Launch.save` wrote
    parent: int  # process id of the supervisor
    report_fd: int
    number: int  # engine core: its epoch; front-end: its client number
    slot: int = 0  # front-end: N of `penstock:api-N`
    listen_fd: int = -1  # front-end: the shared listening socket …
    internal_fd: int = -1  # … and that of the internal port, if there is one

    def to_words(self) -> list[str]:
        """As words of a command line."""
        return [f"--{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self)]

    @classmethod
    def parse(cls, words: Sequence[str]) -> ChildArguments:
        """The reverse of `to_words`."""
        parser = argparse.ArgumentParser(description="started by `penstock serve`")
        parser.add_argument("--launch", type=Path, required=True)
        for name in ("parent", "report_fd", "number", "slot", "listen_fd", "internal_fd"):
            parser.add_argument(f"--{name}", type=int, required=True)
        return cls(**vars(parser.parse_args(words)))


def begin(title: str, arguments: ChildArguments) -> tuple[Launch, ReportWriter]:
    """Bind this process's life to the supervisor's, read the launch file, and take the title for this pod's role."""
    die_with_parent(arguments.parent)
    launch = Launch.load(arguments.launch)
    setproctitle.setproctitle(title_in_role(title, launch.config))
    return launch, ReportWriter(arguments.report_fd)
