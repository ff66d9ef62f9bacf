"""The one owner of a router's workers: starts them, restarts what dies, ends them on a signal."""

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
from dataclasses import dataclass

from penstock.logs import event
from penstock.router.launch import Launch, WorkerArguments
from penstock.signals import signals_on_socket

LATE_SECONDS = 5.0  # what workers get on top of the grace period before they are killed
LONGEST_PAUSE = 5.0  # seconds before a worker that keeps dying starts again
STEADY_SECONDS = 10.0  # a life this long makes earlier deaths forgotten

_log = logging.getLogger("penstock.supervisor")


@dataclass(slots=True, kw_only=True)
class Worker:
    """One slot, and the process that fills it."""

    slot: int
    process: subprocess.Popen[bytes] | None = None
    report_fd: int = -1
    began: float = 0.0
    num_deaths: int = 0  # in a row, with short lives
    restart_at: float | None = None
    is_ready: bool = False


class Supervisor:
    """Runs the workers until SIGTERM or SIGINT; a second SIGINT kills at once. Exit code 0 after a drain.

    A worker that dies before it ever served ends everything with its exit code: the next one would fare no better.
    """

    def __init__(
        self,
        launch: Launch,
        listener: socket.socket,
        *,
        module: str,
        announce: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch, self._listener, self._module = launch, listener, module
        self._announce, self._clock = announce, clock
        self._launch_file = launch.save()
        self._workers = [Worker(slot=slot) for slot in range(launch.config.listener.workers)]
        self._selector = selectors.DefaultSelector()
        self._is_announced = self._is_draining = False
        self._num_interrupts = 0
        self._kill_at: float | None = None
        self._exit_code: int | None = None

    def run(self) -> int:
        """Start everything, stay until the end, leave nothing behind; returns the exit code."""
        with signals_on_socket() as wake:
            self._selector.register(wake, selectors.EVENT_READ, None)
            try:
                for worker in self._workers:
                    self._start(worker)
                while self._exit_code is None:
                    self._turn(wake)
                return self._exit_code
            finally:
                for worker in self._workers:
                    if worker.process is not None:
                        worker.process.kill()
                        worker.process.wait()
                self._selector.close()
                self._listener.close()
                shutil.rmtree(self._launch.run_dir, ignore_errors=True)

    def _turn(self, wake: socket.socket) -> None:
        times = [worker.restart_at for worker in self._workers if worker.restart_at is not None]
        times += [self._kill_at] if self._kill_at is not None else []
        patience = max(0.0, min(times) - self._clock()) if times else None
        for key, _ in self._selector.select(patience):
            if key.data is None:
                for number in wake.recv(4096):
                    self._on_signal(number)
            else:
                self._on_report(key.data)
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is not None:
                self._on_exit(worker)
        now = self._clock()
        for worker in self._workers:
            if worker.restart_at is not None and worker.restart_at <= now and not self._is_draining:
                self._start(worker)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for worker in self._workers:
                if worker.process is not None:
                    event(_log, "process.killed", level=logging.WARNING, process=f"router-{worker.slot}")
                    worker.process.kill()
        if self._is_draining and all(worker.process is None for worker in self._workers) and self._exit_code is None:
            event(_log, "drain.ended")
            self._exit_code = 0

    def _start(self, worker: Worker) -> None:
        read_end, write_end = os.pipe()
        listen_fd = self._listener.fileno()
        arguments = WorkerArguments(
            launch=self._launch_file, parent=os.getpid(), report_fd=write_end, slot=worker.slot, listen_fd=listen_fd
        )
        worker.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", self._module, *arguments.to_words()],
            stdin=subprocess.DEVNULL,
            pass_fds=[write_end, listen_fd],
            start_new_session=True,  # Ctrl-C reaches only us, and we end the workers in order
        )
        os.close(write_end)
        worker.report_fd, worker.began = read_end, self._clock()
        worker.restart_at, worker.is_ready = None, False
        self._selector.register(read_end, selectors.EVENT_READ, worker)

    def _on_report(self, worker: Worker) -> None:
        """The worker serves, or it is gone."""
        worker.is_ready = bool(os.read(worker.report_fd, 1))
        self._close_report(worker)
        if worker.is_ready and self._is_announced:
            event(_log, "process.ready", process=f"router-{worker.slot}")
        if not self._is_announced and all(one.is_ready for one in self._workers):
            self._is_announced = True
            self._announce()

    def _on_exit(self, worker: Worker) -> None:
        assert worker.process is not None, f"router-{worker.slot} ended twice"
        code, now = worker.process.returncode, self._clock()
        worker.process = None
        self._close_report(worker)
        if self._is_draining:
            return
        if not self._is_announced:
            self._exit_code = code if code > 0 else 1
            return
        if code == 0:  # somebody asked this one worker to end: the next one follows at once
            worker.restart_at = now
            return
        worker.num_deaths = 1 if now - worker.began > STEADY_SECONDS else worker.num_deaths + 1
        pause = 0.0 if worker.num_deaths == 1 else min(LONGEST_PAUSE, 0.25 * 2**worker.num_deaths)
        worker.restart_at = now + pause
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        event(_log, "process.died", level=logging.WARNING, process=f"router-{worker.slot}", why=why)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # the reaping that follows every wake-up does the rest
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts >= 2:
            self._exit_code = 128 + signal.SIGINT
            return
        if self._is_draining:
            return
        self._is_draining = True
        grace = self._launch.config.listener.shutdown_grace
        event(_log, "drain.begun", grace_seconds=grace)
        self._kill_at = self._clock() + grace + LATE_SECONDS
        self._listener.close()  # the workers hold it until they take nothing new any more
        for worker in self._workers:
            worker.restart_at = None
            if worker.process is not None:
                worker.process.send_signal(signal.SIGTERM if self._is_announced else signal.SIGKILL)

    def _close_report(self, worker: Worker) -> None:
        if worker.report_fd >= 0:
            self._selector.unregister(worker.report_fd)
            os.close(worker.report_fd)
            worker.report_fd = -1
