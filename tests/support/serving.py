"""Starts the real `penstock serve` and talks to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

REPOSITORY = Path(__file__).parents[2]
SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment() -> dict[str, str]:
    """This environment with our packages and `support` importable in child processes, installed or not."""
    folders = [str(REPOSITORY / name) for name in ("runtime", "kernels", "tests")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


def run_cli(*words: str, seconds: float = 60, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`penstock words…`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "penstock", *words],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=seconds,
        env=environment(),
        check=False,
    )


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Its lines on standard error, without the warning that is right where there is no compiler."""
    return [line for line in done.stderr.splitlines() if "no compiled CPU kernels" not in line]


def wait_for(condition: Callable[[], object], seconds: float = SECONDS, what: str = "") -> float:
    """Wait until the condition holds; returns how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"waited {seconds} s for {what or condition}"
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Server:
    """A running `penstock serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, path: str) -> int:
        """HTTP status; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return reply.read().decode()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith((name + " ", name + "{"))]
        assert lines, f"there is no metric {name}"
        return sum(float(line.split()[-1]) for line in lines)

    def open(self, path: str, **body: object):
        """The open reply to a POST."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=SECONDS)

    def post(self, path: str, **body: object) -> dict:
        with self.open(path, **body) as reply:
            return json.load(reply)

    def events(self, path: str, **body: object) -> Iterator[dict]:
        """The events of a streamed answer."""
        with self.open(path, stream=True, **body) as reply:
            for line in reply:
                data = line.decode().strip().removeprefix("data: ")
                if data.startswith("{"):
                    yield json.loads(data)

    def children(self, title: str) -> list[int]:
        """Process ids of the descendants with this title."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if title in command:
                found.append(child.pid)
        return sorted(found)

    def kill(self, title: str) -> None:
        for pid in self.children(title):
            os.kill(pid, signal.SIGKILL)

    def wait_ready(self) -> float:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return self.status("/readyz") == 200

        return wait_for(is_ready, what="/readyz")


@contextmanager
def serving(folder: Path, *words: str, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Server]:
    """`penstock serve words…` on a free port, ready; killed at the end if it still runs. `settings`: environment."""
    port, log = free_port(), folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "serve", "--port", str(port), *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment() | settings,
        )
    server = Server(process, port, log)
    try:
        server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
