"""The one owner of a pod's processes: starts them, restarts what dies, ends them in order. Imports nothing heavy."""

from __future__ import annotations

import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.engine.child import ChildArguments
from penstock.engine.health import RestartPolicy
from penstock.engine.launch import ChildFailed, EngineStarted, Launch, ReportReader
from penstock.logs import event
from penstock.signals import signals_on_socket

STOP_SECONDS = 5.0  # what a child gets between being asked to end and being killed
LATE_SECONDS = 5.0  # … and a front-end, on top of the grace period, to write its last bytes

_log = logging.getLogger("penstock.supervisor")


@dataclass(slots=True, kw_only=True)
class Child:
    """One life of a child process."""

    title: str
    number: int  # engine core: epoch; front-end: client number
    slot: int  # front-end: N of `penstock:api-N`; engine core: -1
    process: subprocess.Popen[bytes]
    reports: ReportReader
    is_ready: bool = False
    failure: ChildFailed | None = None

    @property
    def is_engine(self) -> bool:
        """True for the engine core, False for a front-end."""
        return self.slot < 0


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place that is always to be filled by a living child: the engine core's, or that of a front-end."""

    index: int  # -1: engine core
    num_lives: int = 0
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    restart_at: float | None = None


class Supervisor:
    """Runs `penstock serve`'s processes until a signal, or until they cannot be kept alive.

    SIGTERM or SIGINT: front-ends drain, then the engine core ends, exit code 0; a second SIGINT kills at once.
    An error before everything was ready ends it with that error's line and exit code; later deaths lead to restarts.
    """

    def __init__(
        self,
        launch: Launch,
        listener: socket.socket,
        *,
        internal_listener: socket.socket | None = None,
        api_module: str,
        engine_module: str = "penstock.engine.core_process",
        announce: Callable[[EngineStarted], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._listeners = (listener, internal_listener)
        self._api_module, self._engine_module = api_module, engine_module
        self._announce, self._clock = announce, clock
        self._launch_file = launch.save()
        self._selector = selectors.DefaultSelector()
        self._slots = [Slot(index=index) for index in range(-1, launch.config.server.api_servers)]
        self._children: list[Child] = []
        self._engine_report: EngineStarted | None = None
        self._is_announced = False
        self._is_draining = False
        self._kill_at: float | None = None  # when patience with the children that are ending is over
        self._exit_code: int | None = None  # decided; the loop ends
        self._failure: ChildFailed | None = None  # … because of this
        self._num_interrupts = 0

    def run(self) -> int:
        """Start everything, stay until the end, leave nothing behind; returns the exit code."""
        with signals_on_socket() as wake:
            self._selector.register(wake, selectors.EVENT_READ, None)
            try:
                for slot in self._slots:
                    self._start(slot)
                while self._exit_code is None:
                    self._turn(wake)
                return self._exit_code
            finally:
                self._end_all()
                shutil.rmtree(self._launch.run_dir, ignore_errors=True)
                if self._failure is not None:  # last, so that it is what a person sees
                    print(f"penstock: error: {self._failure.message}", file=sys.stderr, flush=True)

    def _turn(self, wake: socket.socket) -> None:
        """Wait for whatever comes first and react to it."""
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                for number in wake.recv(4096):
                    self._on_signal(number)
            else:
                self._read_reports(key.data)
        for child in [child for child in self._children if child.process.poll() is not None]:
            self._on_exit(child)
        now = self._clock()
        for slot in self._slots:
            if slot.restart_at is not None and slot.restart_at <= now and self._exit_code is None:
                slot.restart_at = None
                self._start(slot)
        if self._kill_at is not None and self._kill_at <= now:
            self._lose_patience()

    def _patience(self) -> float | None:
        times = [slot.restart_at for slot in self._slots if slot.restart_at is not None]
        times += [self._kill_at] if self._kill_at is not None else []
        return max(0.0, min(times) - self._clock()) if times else None

    # -- births

    def _start(self, slot: Slot) -> None:
        slot.num_lives += 1
        if slot.index < 0:
            module, title, number = self._engine_module, "engine-core", slot.num_lives
        else:
            module, title = self._api_module, f"api-{slot.index}"
            number = slot.index + (slot.num_lives - 1) * self._launch.config.server.api_servers
        read_end, write_end = os.pipe()
        listeners = self._listeners if slot.index >= 0 else (None, None)
        listen_fd, internal_fd = (-1 if listener is None else listener.fileno() for listener in listeners)
        arguments = ChildArguments(
            launch=self._launch_file,
            parent=os.getpid(),
            report_fd=write_end,
            number=number,
            slot=slot.index,
            listen_fd=listen_fd,
            internal_fd=internal_fd,
        )
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", module, *arguments.to_words()],
            stdin=subprocess.DEVNULL,
            pass_fds=[write_end, *(number for number in (listen_fd, internal_fd) if number >= 0)],
            start_new_session=True,  # Ctrl-C and kills of our group reach only us, and we end the children in order
        )
        os.close(write_end)
        child = Child(title=title, number=number, slot=slot.index, process=process, reports=ReportReader(read_end))
        self._children.append(child)
        self._selector.register(read_end, selectors.EVENT_READ, child)

    def _read_reports(self, child: Child) -> None:
        reports = child.reports.read()
        if not reports:  # end of file: wait for the exit without being woken by this pipe again
            self._unregister(child)
        for report in reports:
            if isinstance(report, ChildFailed):
                child.failure = report
            else:
                child.is_ready = True
                self._engine_report = report if isinstance(report, EngineStarted) else self._engine_report
                if self._is_announced:
                    event(_log, "process.ready", process=child.title, life=self._slot_of(child).num_lives)
        if not self._is_announced and self._engine_report and all(child.is_ready for child in self._children):
            self._is_announced = True
            self._announce(self._engine_report)

    # -- deaths

    def _on_exit(self, child: Child) -> None:
        if child.reports.descriptor in self._selector.get_map():
            self._read_reports(child)
        self._forget(child)
        if self._exit_code is not None:
            return
        if self._is_draining and (not child.is_engine or not self._fronts()):
            self._on_drained()
            return
        if not self._is_announced:
            self._give_up(_describe(child))
            return
        slot = self._slot_of(child)
        pause = slot.policy.pause_after_death(self._clock())
        event(_log, "process.died", level=logging.WARNING, process=child.title, why=_describe(child).message)
        if pause is None:
            message = f"{child.title} died {slot.policy.limit} times within {slot.policy.window:.0f} s; giving up"
            self._give_up(ChildFailed(message=message, exit_code=1))
            return
        if child.is_engine:
            self._tell_engine_down(child.number)
        slot.restart_at = self._clock() + pause

    def _tell_engine_down(self, epoch: int) -> None:
        from penstock.engine.notice import tell_engine_down  # numpy and zmq: no start waits for what it may never need

        tell_engine_down([self._launch.client_address(front.number) for front in self._fronts()], epoch)

    def _give_up(self, failure: ChildFailed) -> None:
        self._failure, self._exit_code = failure, failure.exit_code

    # -- the end

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # the reaping that follows every wake-up does the rest
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts >= 2:
            self._exit_code = 128 + signal.SIGINT
        elif not self._is_draining:
            self._is_draining = True
            self._begin_drain()

    def _begin_drain(self) -> None:
        if not self._is_announced:
            self._exit_code = 0  # nothing runs yet that could finish
            return
        grace = self._launch.config.server.shutdown_grace
        event(_log, "drain.begun", grace_seconds=grace)
        self._kill_at = self._clock() + grace + LATE_SECONDS
        for slot in self._slots[1:]:
            slot.restart_at = None
        for front in self._fronts():
            front.process.send_signal(signal.SIGTERM)
        if not self._fronts():
            self._on_drained()

    def _on_drained(self) -> None:
        """A child ended as asked: after the last front-end the engine core goes, and after that we do."""
        if self._fronts():
            return
        self._kill_at = self._clock() + STOP_SECONDS
        for child in self._children:
            child.process.send_signal(signal.SIGTERM if child.is_ready else signal.SIGKILL)
        if not self._children:
            event(_log, "drain.ended")
            self._exit_code = 0

    def _lose_patience(self) -> None:
        for child in self._children:
            event(_log, "process.killed", level=logging.WARNING, process=child.title)
            child.process.kill()
        self._kill_at = None

    def _end_all(self) -> None:
        """Kill what is left and wait for it; workers die with their engine core."""
        for child in self._children:
            child.process.kill()
        for child in list(self._children):
            child.process.wait()
            self._forget(child)
        self._selector.close()

    # -- the children

    def _fronts(self) -> list[Child]:
        return [child for child in self._children if not child.is_engine]

    def _slot_of(self, child: Child) -> Slot:
        return self._slots[child.slot + 1]

    def _unregister(self, child: Child) -> None:
        if child.reports.descriptor in self._selector.get_map():
            self._selector.unregister(child.reports.descriptor)

    def _forget(self, child: Child) -> None:
        self._unregister(child)
        child.reports.close()
        self._children.remove(child)


def _describe(child: Child) -> ChildFailed:
    """Why a child ended, in its own words if it had any."""
    code = child.process.returncode
    if child.failure is not None:
        return child.failure
    if code == -signal.SIGKILL:
        return ChildFailed(message=f"{child.title} was killed (the machine may be out of memory)", exit_code=1)
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return ChildFailed(message=f"{child.title} ended unexpectedly: {reason}", exit_code=1)
