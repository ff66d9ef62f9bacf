"""Answers that are kept for a retry: the same Idempotency-Key, tenant and body are generated once.

The generation does not belong to a connection: whoever asks, first or again, follows what is recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256

from penstock.errors import Internal, InvalidRequest, KeyReused, RequestError, RequestTooLarge
from penstock.logs import event
from penstock.server.exchange import ClientGone, Exchange, Headers

MAX_KEY_BYTES = 255
SHARE_OF_ONE = 8  # one answer may take an 8th of the memory
OVERHEAD_BYTES = 1024  # of an entry, roughly

_log = logging.getLogger("penstock.router")


class Recording:
    """An answer as it comes; a `Sink` for the relay that makes it."""

    def __init__(self, request_id: str, digest: bytes, started_at: float, reserve: Callable[[int], None]) -> None:
        """`reserve` is told of every byte that is kept, and raises if there is no room."""
        self.request_id, self.digest, self.started_at = request_id, digest, started_at
        self.is_streaming = False
        self.is_disconnected = False  # nobody can leave: a retry may come
        self.status = 0  # of the answer, once it has begun
        self.content_type = b""
        self.headers: Headers = []
        self.parts: list[bytes] = []
        self.num_bytes = OVERHEAD_BYTES
        self.error: RequestError | None = None
        self.ended_at: float | None = None
        self._reserve = reserve
        self._followers: set[asyncio.Event] = set()

    async def on_disconnect(self, act: Callable[[], Awaitable[None]]) -> None:
        """Nothing: this never happens."""

    async def respond(
        self, body: bytes, content_type: bytes, status: int = 200, headers: Headers | None = None
    ) -> None:
        """Keep a whole answer."""
        self.status, self.content_type, self.headers = status, content_type, headers or []
        self._keep(body)

    async def start_stream(self) -> None:
        """Keep that it is a stream."""
        self.is_streaming, self.status = True, 200

    async def send(self, events: bytes) -> None:
        """Keep events."""
        self._keep(events)

    async def end_stream(self, events: bytes = b"") -> None:
        """Keep the last events."""
        self._keep(events)

    def end(self, now: float, error: RequestError | None) -> None:
        """Nothing more will come."""
        self.ended_at, self.error = now, error
        self._wake()

    def _keep(self, data: bytes) -> None:
        self._reserve(len(data))
        self.num_bytes += len(data)
        self.parts.append(data)
        self._wake()

    def _wake(self) -> None:
        for follower in self._followers:
            follower.set()

    async def follow(self, exchange: Exchange) -> None:
        """Give a client all of it. Raises the error that it ended with, `ClientGone` when the client leaves."""
        news, num_seen = asyncio.Event(), 0

        async def leave() -> None:
            news.set()

        self._followers.add(news)
        try:
            await exchange.on_disconnect(leave)
            while self.ended_at is None or (num_seen < len(self.parts) and self.is_streaming):
                if exchange.is_disconnected:
                    raise ClientGone
                if self.is_streaming and num_seen < len(self.parts):
                    if not exchange.is_streaming:
                        await exchange.start_stream()
                    data, num_seen = b"".join(self.parts[num_seen:]), len(self.parts)
                    await exchange.send(data)
                    continue
                await news.wait()
                news.clear()
        finally:
            self._followers.discard(news)
        if self.error is not None:
            raise self.error
        if not self.is_streaming:
            await exchange.respond(b"".join(self.parts), self.content_type, self.status, self.headers)
            return
        if not exchange.is_streaming:
            await exchange.start_stream()
        await exchange.end_stream()


class Answers:
    """The recordings of one worker, bounded in time and memory."""

    def __init__(self, *, seconds: float, max_bytes: int, clock: Callable[[], float]) -> None:
        self._seconds, self._max_bytes, self._clock = seconds, max_bytes, clock
        self._entries: dict[tuple[str, bytes], Recording] = {}  # in order of their beginning
        self.num_bytes = 0  # that are kept
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, tenant: str, key: bytes, digest: bytes) -> Recording | None:
        """The recording that a request belongs to. Raises `KeyReused` if the key stands for another request."""
        if not key or len(key) > MAX_KEY_BYTES:
            raise InvalidRequest(f"the header Idempotency-Key must have 1 to {MAX_KEY_BYTES} bytes")
        self._forget_old()
        entry = self._entries.get((tenant, key))
        if entry is not None and entry.digest != digest:
            raise KeyReused("this Idempotency-Key was used for another request before")
        return entry

    def begin(
        self,
        tenant: str,
        key: bytes,
        recording: Recording,
        work: Callable[[], Awaitable[None]],
        done: Callable[[], None],
    ) -> None:
        """Record what `work` answers, on its own; `done` is called at the end, however it comes."""
        self._entries[tenant, key] = recording
        self.num_bytes += recording.num_bytes
        task = asyncio.create_task(self._run((tenant, key), recording, work, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def record(self, request_id: str, digest: bytes) -> Recording:
        """An empty recording."""
        recording = Recording(request_id, digest, self._clock(), lambda size: self._reserve(recording, size))
        return recording

    async def _run(
        self,
        name: tuple[str, bytes],
        recording: Recording,
        work: Callable[[], Awaitable[None]],
        done: Callable[[], None],
    ) -> None:
        error: RequestError | None = Internal("the router is shutting down")
        try:
            await work()
            error = None
        except RequestError as why:
            error = why
        except Exception:
            # As at the gate: a defect of ours ends this request and no other.
            _log.exception("request.broken request_id=%s", recording.request_id)
            error = Internal(f"internal error; request id {recording.request_id}")
        finally:
            done()
            recording.end(self._clock(), error)
            if error is not None or recording.status != 200:  # a retry is to have a new chance
                self._forget(name)
                if error is not None and error.status >= 500:
                    event(_log, "request.failed", level=logging.WARNING, request_id=recording.request_id, why=error)

    def _reserve(self, recording: Recording, size: int) -> None:
        """Make room for more bytes of a recording, at the cost of the oldest that have ended."""
        for name in [name for name, entry in self._entries.items() if entry.ended_at is not None]:
            if self.num_bytes + size <= self._max_bytes:
                break
            self._forget(name)
        is_too_long = recording.num_bytes + size > self._max_bytes // SHARE_OF_ONE
        if is_too_long or self.num_bytes + size > self._max_bytes:
            raise RequestTooLarge("the answer is longer than can be kept for an Idempotency-Key; ask without one")
        self.num_bytes += size

    def _forget_old(self) -> None:
        limit = self._clock() - self._seconds
        for name, entry in list(self._entries.items()):
            if entry.ended_at is not None and entry.ended_at <= limit:
                self._forget(name)
            elif entry.ended_at is not None:
                break  # the others began later; most of them ended later

    def _forget(self, name: tuple[str, bytes]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.num_bytes -= entry.num_bytes


def digest_of(path: str, body: bytes) -> bytes:
    """What makes two requests the same."""
    return sha256(path.encode() + b"\n" + body).digest()
