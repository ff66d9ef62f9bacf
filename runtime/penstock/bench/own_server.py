"""A `penstock serve` started for a benchmark."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.errors import PenstockError

POLL_SECONDS = 0.01
MOST_SECONDS = 600.0
FRONT_END = "penstock:api"


class OwnServer:
    """A server process and its children; use it in a `with` statement. Ready once `wait_ready` returned.

    `words` go behind `penstock serve`; `cache` is another model cache than the usual one.
    """

    def __init__(self, words: Sequence[str], cache: Path | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._output = tempfile.TemporaryFile("w+", errors="replace")
        self._began = time.perf_counter()
        settings = [] if cache is None else ["env", f"PENSTOCK_CACHE={cache}"]
        self._process = subprocess.Popen(
            [*settings, sys.executable, "-m", "penstock", "serve", *words, "--port", str(port)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def wait_ready(self) -> float:
        """Seconds from the start of the process until /readyz answers 200. Raises `PenstockError` if it ends before."""
        while (waited := time.perf_counter() - self._began) < MOST_SECONDS:
            if self._process.poll() is not None:
                raise PenstockError(f"penstock serve ended with code {self._process.returncode}:\n{self.text()[-800:]}")
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return time.perf_counter() - self._began
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_SECONDS)
        raise PenstockError(f"penstock serve was not ready after {waited:.0f} s")

    def text(self) -> str:
        """What the server has printed so far."""
        self._output.seek(0)
        return self._output.read()

    def load_seconds(self) -> float | None:
        """How long the weights took, by the server's own account."""
        found = re.search(r"loaded in ([\d.]+) s", self.text())
        return float(found[1]) if found else None

    def front_end_cpu(self) -> float:
        """CPU seconds that the front-end processes have used until now."""
        ticks = 0
        for pid in descendants(self._process.pid):
            folder = Path(f"/proc/{pid}")
            if FRONT_END in (folder / "cmdline").read_bytes().decode(errors="replace"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # user and system time, proc(5)
        return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """Process ids of all children of children."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found
