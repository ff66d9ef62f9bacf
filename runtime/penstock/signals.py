"""Signals as bytes on a socket, for a loop that waits on descriptors."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType


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
