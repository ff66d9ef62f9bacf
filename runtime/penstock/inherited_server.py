"""uvicorn for processes that a supervisor started: it inherits its socket and leaves signals to us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn


class InheritedServer(uvicorn.Server):
    """uvicorn, with the signals left to us: SIGTERM drains here, it does not close the listening socket at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield
