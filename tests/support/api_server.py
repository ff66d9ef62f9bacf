"""The API server of a cluster on this machine, as a process that stops, goes on, is killed and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


class ApiServer:
    """`state`: the folder of the cluster; the caller's thread is in the cluster's network."""

    def __init__(self, state: Path) -> None:
        self._pid, self._log = state / "pid/kube-apiserver", state / "log/kube-apiserver.log"

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Connections stay, and nothing answers meanwhile."""
        process = int(self._pid.read_text())
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Connections break, and nothing listens meanwhile; what comes back is another process, no child of ours."""
        process = psutil.Process(int(self._pid.read_text()))
        words = process.cmdline()
        process.kill()
        try:
            yield
        finally:
            start = ("sh", "-c", 'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!', str(self._log), *words)
            self._pid.write_text(subprocess.run(start, check=True, stdout=subprocess.PIPE, text=True).stdout)
