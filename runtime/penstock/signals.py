"""Signals as bytes on a socket, for a loop that waits on descriptors, and as events, for an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType


@dataclass(frozen=True, slots=True)
class Ending:
    """Set by signals once `listen` was called in a running event loop."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)  # SIGTERM or SIGINT: what runs may finish
    hurried: asyncio.Event = field(default_factory=asyncio.Event)  # SIGINT: it may not

    def listen(self) -> None:
        """From now on signals only set the events."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.asked.set)
        loop.add_signal_handler(signal.SIGINT, self._hurry)

    def _hurry(self) -> None:
        self.asked.set()
        self.hurried.set()


@contextlib.contextmanager
def signals_on_socket() -> Iterator[socket.socket]:
    """A socket on which SIGCHLD, SIGTERM and SIGINT arrive as one byte each; afterwards the latter two are ignored,
    since one that comes so late changes nothing any more."""
    wake_read, wake_write = socket.socketpair()
    with wake_read, wake_write:
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _note)
        try:
            yield wake_read
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)


def _note(number: int, frame: FrameType | None) -> None:
    """Signals arrive through the wake-up descriptor; this only replaces their default actions."""
