"""One HTTP request and its answer, over ASGI: bounded bodies, JSON answers, event streams, clients that leave."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from penstock.errors import InvalidRequest, RequestTooLarge

AsgiMessage = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]

BODY_SECONDS = 60.0  # for a whole body to arrive
DISCARD_BYTES = 256 << 20  # of a body that is too large, read and dropped so that its sender gets to read the answer
DISCARD_SECONDS = 10.0

JSON = b"application/json"
SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # asks proxies not to collect events
]


class ClientGone(Exception):
    """The client closed the connection before it was answered."""


class Exchange:
    """Reads one request and answers it once, either whole or as a stream."""

    __slots__ = (
        "_on_disconnect",
        "_receive",
        "_send",
        "_watcher",
        "is_disconnected",
        "is_streaming",
        "request_id",
        "salt",
        "scope",
        "started_at",
        "status",
    )

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[AsgiMessage]],
        send: Callable[[AsgiMessage], Awaitable[None]],
        *,
        request_id: str,
        started_at: float,
    ) -> None:
        self.scope = scope
        self.request_id = request_id
        self.started_at = started_at  # seconds, monotonic
        self.salt: str | None = None  # of the prefix cache; authentication sets it
        self.status: int | None = None  # of the answer, once it has begun
        self.is_streaming = False  # an event stream has begun and not ended
        self.is_disconnected = False
        self._receive, self._send = receive, send
        self._watcher: asyncio.Task[None] | None = None
        self._on_disconnect: Callable[[], Awaitable[None]] | None = None

    @property
    def path(self) -> str:
        """The decoded path."""
        path: str = self.scope["path"]
        return path

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        return next((value for key, value in self.scope["headers"] if key == name), None)

    # -- the request

    async def read_body(self, limit: int) -> bytes:
        """The whole body. Raises `RequestTooLarge` above `limit` bytes, `ClientGone` when the client leaves.

        A body that is too large is read and dropped up to a bound, because most clients look at the answer only
        after they have sent everything.
        """
        declared = self.header(b"content-length")
        try:
            if declared is not None and int(declared) > limit:
                raise RequestTooLarge(f"the body has {int(declared):,} bytes; at most {limit:,} are accepted")
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(limit)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from None
        except RequestTooLarge:
            is_waiting = self.header(b"expect") is not None  # nothing is sent before we ask for it
            if not is_waiting and int(declared or 0) <= DISCARD_BYTES:
                await self._discard()
            raise

    async def _read(self, limit: int) -> bytes:
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body"):
            if len(body) > limit:
                raise RequestTooLarge(f"the body has more than the {limit:,} bytes that are accepted")
            return body
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise RequestTooLarge(f"the body has more than the {limit:,} bytes that are accepted")
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()

    async def _discard(self) -> None:
        """Read the rest of the body and forget it, within bounds."""
        size = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while size < DISCARD_BYTES:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return

    def watch(self) -> None:
        """From now on notice when the client leaves; only after the whole body was read."""
        self._watcher = asyncio.ensure_future(self._wait_for_disconnect())

    async def on_disconnect(self, act: Callable[[], Awaitable[None]]) -> None:
        """Await `act` when the client leaves, at once if it has left."""
        self._on_disconnect = act
        if self.is_disconnected:
            await act()

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_disconnected = True
        if self._on_disconnect is not None:
            await self._on_disconnect()

    def close(self) -> None:
        """Stop watching, and let go of what refers to this, so that nothing is left for the collector."""
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = self._on_disconnect = None

    # -- the answer

    async def respond_json(self, value: Any, status: int = 200, headers: Headers | None = None) -> None:
        """Answer with `value` as JSON."""
        await self.respond(msgspec.json.encode(value), JSON, status, headers)

    async def respond(
        self, body: bytes, content_type: bytes, status: int = 200, headers: Headers | None = None
    ) -> None:
        """Answer with a whole body."""
        head = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *(headers or ())]
        await self._start(status, head)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def respond_empty(self) -> None:
        """Answer that it is done, with nothing more to say."""
        await self._start(204, [])
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def start_body(self, headers: Headers) -> None:
        """Begin a body of any other kind, in parts; one that is broken off tells its reader that something is wrong."""
        await self._start(200, headers)

    async def start_stream(self) -> None:
        """Begin a stream of server-sent events."""
        self.is_streaming = True
        await self._start(200, EVENT_STREAM)

    async def send(self, events: bytes) -> None:
        """Send encoded events; waits while a slow reader has too much before it."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_stream(self, events: bytes = b"") -> None:
        """Send the last events and end the stream."""
        self.is_streaming = False
        await self._send({"type": "http.response.body", "body": events, "more_body": False})

    async def forward(self, message: AsgiMessage) -> None:
        """Send what was written without us, such as FastAPI's own pages."""
        if message["type"] == "http.response.start":
            await self._start(message["status"], list(message["headers"]))
        else:
            await self._send(message)

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        head = [*headers, (b"x-request-id", self.request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": head})


def request_id_of(scope: Mapping[str, Any]) -> str:
    """The client's own `X-Request-Id` if it is sane, else a new one."""
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
