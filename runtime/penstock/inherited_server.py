"""uvicorn for processes that a supervisor started: it inherits its socket and leaves signals to us."""

from __future__ import annotations

import contextlib
import gc
import socket
from collections.abc import Iterator

import uvicorn

ACCEPTS = 8  # connections that are taken in one turn of the event loop
# Longer than clients (httpx: 5) and load balancers (60) keep a connection that nobody uses: they must be the ones who
# close it, or a request meets a connection that is being closed, and fails.
KEEP_ALIVE_SECONDS = 75


class InheritedServer(uvicorn.Server):
    """uvicorn, with the signals left to us: SIGTERM drains here, it does not close the listening socket at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to exit, on sockets that listen already.

        libuv takes one connection per listening descriptor and turn, whatever waits: when turns take long, that is what
        clients wait for. So it gets several descriptors of each socket.
        """
        await super().serve([each for one in sockets or [] for each in (one, *(one.dup() for _ in range(ACCEPTS - 1)))])


def calm_collector() -> None:
    """Requests leave hardly any cycles: look for them seldom, and never among what start-up left."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
