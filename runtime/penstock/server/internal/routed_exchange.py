"""An answer in frames: to a router, which can have it finished by another pod if this one cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock.core.request import Request
from penstock.engine.output import OutputDelta
from penstock.internal.frames import CONTENT_TYPE, HEARTBEAT_SECONDS, Frame, FrameKind
from penstock.internal.protocol import RoutedCall
from penstock.server.exchange import Headers
from penstock.server.pod_exchange import PodExchange
from penstock.server.story import Origin, Scribe, Story, TakeDeltas

FRAMES: Headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-cache")]


class RoutedExchange(PodExchange):
    """Looks to a handler like any other exchange with a client. What fails before the first frame is an HTTP error."""

    __slots__ = ("_asides", "_beat", "_has_shown", "_is_ended", "_lock", "_record", "_written_at", "is_moved", "outer")

    def __init__(self, outer: PodExchange, call: RoutedCall) -> None:
        """`outer` brought the call. Raises `InvalidRequest` for records that are none."""
        super().__init__(
            outer.scope, outer._receive, outer._send, request_id=outer.request_id, started_at=outer.started_at
        )
        self.outer = outer
        self.salt, self.body = call.salt, call.body
        self.story = Story.read(call.records, num_deaths=call.num_deaths, prefiller=call.prefiller)
        self.is_moved = False  # given up, for another pod to go on
        self._has_shown = False  # the client has seen something, here or from the pod before
        self._is_ended = False
        self._written_at = asyncio.get_running_loop().time()  # when the last frame was
        self._record = b""  # of what is sent next
        self._lock = asyncio.Lock()
        self._beat: asyncio.TimerHandle | None = None
        self._asides: set[asyncio.Task[None]] = set()  # frames on their way that are no part of the answer

    def recording(self, take: TakeDeltas, origin: Origin, requests: Sequence[Request]) -> TakeDeltas:
        """From now on every list of deltas goes out with its record, and a heartbeat when there is none."""
        is_head_told = self.story is not None and self.story.head is not None
        scribe = Scribe(origin, requests, is_head_told=is_head_told)
        self._keep_beating()

        async def take_and_record(deltas: Sequence[OutputDelta]) -> None:
            self._record = scribe.write(deltas)
            await take(deltas)
            if self._record:
                await self._write(FrameKind.EVENT)

        return take_and_record

    def note_death(self) -> None:
        """Tell the router, which counts over all pods."""
        self._write_aside(FrameKind.DEATH)

    async def move(self) -> None:
        """Give the request up, unharmed, for another pod to go on."""
        if not self.is_disconnected:
            self.is_moved = self.is_disconnected = True
            if self._on_disconnect is not None:
                await self._on_disconnect()

    def close(self) -> None:
        """Stop watching and beating."""
        super().close()
        if self._beat is not None:
            self._beat.cancel()

    # -- the answer

    async def respond(
        self, body: bytes, content_type: bytes, status: int = 200, headers: Headers | None = None
    ) -> None:
        """Answer with a whole body."""
        await self._write(FrameKind.END, body)

    async def start_stream(self) -> None:
        """Begin a stream of events; its first frame begins the answer."""
        self.is_streaming = not self.is_muted

    async def send(self, events: bytes) -> None:
        """Send encoded events, with the record of what is behind them."""
        self._has_shown = True
        if not self.is_muted:
            await self._write(FrameKind.EVENT, events)

    async def end_stream(self, events: bytes = b"") -> None:
        """Send the last events and end the answer."""
        self.is_streaming = False
        await self._write(FrameKind.END, events)

    async def end_moved(self) -> None:
        """Say that another pod is to go on."""
        await self._write(FrameKind.MOVED)

    @property
    def has_shown(self) -> bool:
        """True if the client has seen a part of a stream, so that an error must be its end."""
        return self._has_shown

    async def end_error(self, status: int, payload: bytes) -> None:
        """End an answer that has begun with an error: its JSON body, or the last events of a stream."""
        await self._write(FrameKind.ERROR, payload, record=b"%d" % status)

    async def _write(self, kind: FrameKind, payload: bytes = b"", record: bytes = b"") -> None:
        """Send one frame; nothing follows one that ends the answer."""
        async with self._lock:
            if self._is_ended:
                return
            if kind == FrameKind.EVENT:
                record, self._record = self._record, b""
            self._is_ended, self._written_at = kind >= FrameKind.MOVED, asyncio.get_running_loop().time()
            if self.status is None:
                await self._start(200, FRAMES)
            data = Frame(kind, record, payload).to_bytes()
            await self._send({"type": "http.response.body", "body": data, "more_body": not self._is_ended})

    def _write_aside(self, kind: FrameKind) -> None:
        task = asyncio.ensure_future(self._write(kind))
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def _keep_beating(self) -> None:
        """A timer costs a fraction of a task that sleeps, and there is one for every answer."""
        loop = asyncio.get_running_loop()
        due_in = self._written_at + HEARTBEAT_SECONDS - loop.time()
        if due_in <= 0.0 and not self._lock.locked():  # else a slow reader has enough before it
            self._write_aside(FrameKind.HEARTBEAT)
        self._beat = loop.call_later(due_in if due_in > 0.0 else HEARTBEAT_SECONDS, self._keep_beating)

    async def _start(self, status: int, headers: Headers) -> None:
        self.outer.status = status
        await super()._start(status, headers)
