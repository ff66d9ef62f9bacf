"""Starts the real `penstock route` and scripted pods as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.bench.scripted_pod import pod_command
from support.serving import Server, environment, free_port, wait_for


@contextmanager
def routing(folder: Path, *words: str, scheme: str = "http") -> Iterator[Server]:
    """`penstock route words…` on a free port, serving; killed at the end if it still runs."""
    port, log = free_port(), folder / "route.log"
    command = [sys.executable, "-m", "penstock", "route", "--port", str(port), *words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment()
        )
    server = Server(process, port, log)
    try:
        wait_for(lambda: f"Ready on {scheme}://" in log.read_text() or process.poll() is not None, what="the router")
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def scripted_pod(**values: object) -> Iterator[Server]:
    """A scripted pod in a process of its own, ready."""
    port = free_port()
    process = subprocess.Popen(
        pod_command(port, **values), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    )
    server = Server(process, port, Path("/dev/null"))
    try:
        server.wait_ready()
        yield server
    finally:
        process.kill()
        process.wait()
