"""A process started for a benchmark, pinned to cores if need be, and ended with everything below it."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.errors import PenstockError

POLL_SECONDS = 0.01
MOST_SECONDS = 600.0
STOP_SECONDS = 60.0


class OwnProcess:
    """A command and its children; use it in a `with` statement. Ready once `wait_ready` returned.

    `cores`: all of its threads and children stay on these. It dies with this process.
    """

    def __init__(self, command: Sequence[str], ready_url: str, *, cores: Sequence[int] = ()) -> None:
        self.command, self._ready_url = command, ready_url
        self._output = tempfile.TemporaryFile("w+", errors="replace")
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "penstock.lifetime", str(os.getpid()), *command],
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        if cores:
            os.sched_setaffinity(self._process.pid, cores)  # long before it has threads or children, who inherit it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self._process.pid

    def wait_ready(self) -> float:
        """Seconds from the start of the process until its URL answers 200. Raises `PenstockError` if it ends before."""
        while (waited := time.perf_counter() - self._began) < MOST_SECONDS:
            if self._process.poll() is not None:
                name = " ".join(self.command[2:5])
                raise PenstockError(f"{name} ended with code {self._process.returncode}:\n{self.text()[-800:]}")
            try:
                with urllib.request.urlopen(self._ready_url, timeout=5):
                    return time.perf_counter() - self._began
            except (OSError, http.client.HTTPException):
                time.sleep(POLL_SECONDS)
        raise PenstockError(f"{' '.join(self.command)} was not ready after {waited:.0f} s")

    def text(self) -> str:
        """What it has printed so far."""
        self._output.seek(0)
        return self._output.read()

    def cpu_seconds(self, title: str = "") -> float:
        """CPU time that it and what lies below it have used until now; only processes whose title holds `title`."""
        ticks = 0
        for pid in [self.pid, *descendants(self.pid)]:
            folder = Path(f"/proc/{pid}")
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace")
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if title in line:
                ticks += int(fields[11]) + int(fields[12])  # user and system time, proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Process ids of all children of children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found
