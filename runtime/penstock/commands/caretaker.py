"""Keeps the processes of a service running on one machine, as Kubernetes keeps pods: one that ends is started again."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence

from penstock.commands.members import Member
from penstock.errors import PenstockError

STEADY_SECONDS = 10.0  # a process that lived so long did not die of its start
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
STOP_SECONDS = 5.0  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.1
READ_BYTES = 1 << 16


class Backoff:
    """How long to wait before a process is started again: not at all, but ever longer if it keeps dying young."""

    def __init__(self) -> None:
        self._num_young = 0

    def delay(self, lived: float) -> float:
        """Seconds to wait after a life of `lived` seconds."""
        self._num_young = self._num_young + 1 if lived < STEADY_SECONDS else 0
        if self._num_young < 2:
            return 0.0
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (self._num_young - 2))


class Caretaker:
    """Runs the members of a service until it is told to stop, and leaves none of their processes behind.

    Each member is a session of its own and is killed by the kernel if this process dies. `say` gets each line they
    print, with the name of the member.
    """

    def __init__(self, members: Sequence[Member], say: Callable[[str, str], None]) -> None:
        self._members = members
        self._say = say
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._is_stopping = asyncio.Event()
        self._was_ready = False

    async def run(self, announce: Callable[[dict[str, int]], None]) -> None:
        """Until SIGTERM or SIGINT. `announce` gets the process ids by name once every member is ready.

        Raises `PenstockError` if a member gives up before the service was ever ready.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._is_stopping.set)
        keepers = [asyncio.create_task(self._keep(member)) for member in self._members]
        others = [asyncio.create_task(self._is_stopping.wait()), asyncio.create_task(self._announce(announce))]
        try:
            pending: set[asyncio.Task[object]] = {*keepers, *others}
            while not self._is_stopping.is_set():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            self._is_stopping.set()
            await self._stop()
            for task in (*keepers, *others):
                task.cancel()
            await asyncio.gather(*keepers, *others, return_exceptions=True)

    async def _keep(self, member: Member) -> None:
        """Start it whenever it is not running."""
        backoff = Backoff()
        while not self._is_stopping.is_set():
            began = time.monotonic()
            code = await self._live(member)
            if self._is_stopping.is_set():
                return
            if code > 0 and not self._was_ready:
                raise PenstockError(f"{member.name} gave up with exit code {code} before the service was ready")
            delay = backoff.delay(time.monotonic() - began)
            end = f"ended with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
            self._say("demo", f"{member.name} {end}; starts again {f'in {delay:.0f} s' if delay else 'now'}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), delay or POLL_SECONDS)

    async def _live(self, member: Member) -> int:
        """One life of a member; returns its exit code, negative for a signal. Nothing of it runs afterwards."""
        reading, writing = os.pipe()
        try:
            process = await start(member.command, writing)
        finally:
            os.close(writing)
        self._processes[member.name] = process
        output = asyncio.create_task(self._print(member.name, reading))
        try:
            return await process.wait()
        finally:
            kill_session(process.pid)  # children of a main process that was killed, as a pod goes as a whole
            await output  # ends when the last of them is gone, and with it their ports are free

    async def _print(self, name: str, reading: int) -> None:
        """Pass on what a member prints, line by line."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(reading, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        rest = b""
        try:
            while data := await reader.read(READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._say(name, line.decode(errors="replace").rstrip("\r"))
            if rest:
                self._say(name, rest.decode(errors="replace"))
        finally:
            transport.close()

    async def _announce(self, announce: Callable[[dict[str, int]], None]) -> None:
        """Wait until every member answers that it is ready, and say so."""
        for member in self._members:
            while not await asyncio.to_thread(is_ready, member.ready_url):
                await asyncio.sleep(POLL_SECONDS)
        self._was_ready = True
        announce({name: process.pid for name, process in self._processes.items()})

    async def _stop(self) -> None:
        """SIGTERM for all, SIGKILL for what is left soon after."""
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(process.wait() for process in running)), STOP_SECONDS)
        for process in running:
            kill_session(process.pid)
        await asyncio.gather(*(process.wait() for process in running))


async def start(command: Sequence[str], output: int) -> asyncio.subprocess.Process:
    """The command in a session of its own that dies with this process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.lifetime", str(os.getpid())),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def kill_session(leader: int) -> None:
    """SIGKILL for the process group of a session's leader, which may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def is_ready(url: str) -> bool:
    """Whether somebody answers 200 there."""
    try:
        with urllib.request.urlopen(url, timeout=2.0):
            return True
    except (OSError, http.client.HTTPException):
        return False
