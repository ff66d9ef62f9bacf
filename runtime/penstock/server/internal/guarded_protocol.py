"""HTTP on the internal port, where bytes that are no HTTP come from somebody who has no business there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also counts the connections that it refuses."""

    def __init__(self, *args: Any, on_garbage: Callable[[], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_garbage = on_garbage

    def send_400_response(self, msg: str) -> None:
        """Refuse and close."""
        self._on_garbage()
        super().send_400_response(msg)
