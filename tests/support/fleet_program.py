"""A program of a service, kept alive as Kubernetes keeps a pod: one that dies is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from support.serving import environment

RESTART_SECONDS = 0.2  # until a dead program is started again


@dataclass(slots=True, kw_only=True)
class Program:
    """`penstock words…`, whatever life it is in."""

    name: str
    words: Sequence[str]
    log: Path
    prefix: Sequence[str] = ()  # such as `ip netns exec …`
    settings: Mapping[str, str] = field(default_factory=dict)  # of its environment
    is_wanted: bool = False
    exits: list[tuple[float, int]] = field(default_factory=list)  # (when, exit code) of each death
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the main process."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the life that ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "penstock", *self.words],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=environment() | dict(self.settings),
            )
        self.is_wanted = True

    def look(self) -> None:
        """Start it again if it died."""
        if self.is_wanted and not self.is_alive:
            assert self._process is not None
            self.exits.append((time.monotonic(), self._process.returncode))
            self.start()

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Itself and its descendants, those with `title` in their command line."""
        try:
            main = psutil.Process(self.pid)
            return [each for each in [main, *main.children(recursive=True)] if title in " ".join(each.cmdline())]
        except psutil.Error:
            return []

    def signal(self, number: int, title: str = "") -> list[int]:
        """Send a signal to all its processes, or to those with that title; returns whom."""
        pids = [each.pid for each in self.processes(title)]
        send(pids, number)
        return pids

    def terminate(self) -> None:
        """Ask the main process to stop, as the kubelet does."""
        send([self.pid], signal.SIGTERM)

    def end(self, seconds: float = 30.0) -> None:
        """Stop it for good."""
        self.is_wanted = False
        if self.is_alive:
            left = self.processes()
            self.signal(signal.SIGCONT)
            self.terminate()
            try:
                self._process.wait(seconds)  # type: ignore[union-attr]
            except subprocess.TimeoutExpired:
                send([each.pid for each in left], signal.SIGKILL)
                self._process.wait()  # type: ignore[union-attr]

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class Keeper:
    """Looks after programs on a thread of its own."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        for program in self._programs:
            program.start()
        self._thread.start()

    def end(self) -> None:
        self._done.set()
        self._thread.join()
        for program in self._programs:
            program.is_wanted = False
            if program.is_alive:
                program.signal(signal.SIGCONT)
                program.terminate()
        for program in self._programs:
            program.end()

    def _run(self) -> None:
        while not self._done.wait(RESTART_SECONDS):
            for program in self._programs:
                program.look()
