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

    __slots__ = ("_beat", "_deaths", "_has_shown", "_is_ended", "_is_quiet", "_lock", "_record", "is_moved", "outer")

    def __init__(self, outer: PodExchange, call: RoutedCall) -> None:
        """`outer` brought the call. Raises `InvalidRequest` for records that are none."""
        super().__init__(
            outer.scope, outer._receive, outer.forward, request_id=outer.request_id, started_at=outer.started_at
        )
        self.outer = outer
        self.salt, self.body = call.salt, call.body
        self.story = Story.read(call.records, num_deaths=call.num_deaths, prefiller=call.prefiller)
        self.is_moved = False  # given up, for another pod to go on
        self._has_shown = False  # the client has seen something, here or from the pod before
        self._is_ended = False
        self._is_quiet = True  # nothing was sent since the last beat
        self._record = b""  # of what is sent next
        self._lock = asyncio.Lock()
        self._beat: asyncio.Task[None] | None = None
        self._deaths: set[asyncio.Task[None]] = set()

    def recording(self, take: TakeDeltas, origin: Origin, requests: Sequence[Request]) -> TakeDeltas:
        """From now on every list of deltas goes out with its record, and a heartbeat when there is none."""
        is_head_told = self.story is not None and self.story.head is not None
        scribe = Scribe(origin, requests, is_head_told=is_head_told)
        self._beat = asyncio.ensure_future(self._keep_beating())

        async def take_and_record(deltas: Sequence[OutputDelta]) -> None:
            self._record = scribe.write(deltas)
            await take(deltas)
            if self._record:
                await self._write(FrameKind.EVENT)

        return take_and_record

    def note_death(self) -> None:
        """Tell the router, which counts over all pods."""
        task = asyncio.ensure_future(self._write(FrameKind.DEATH))
        self._deaths.add(task)
        task.add_done_callback(self._deaths.discard)

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
            self._is_ended, self._is_quiet = kind >= FrameKind.MOVED, False
            if self.status is None:
                await self._start(200, FRAMES)
            data = Frame(kind, record, payload).to_bytes()
            await self._send({"type": "http.response.body", "body": data, "more_body": not self._is_ended})

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / 2)
            if self._is_quiet:
                await self._write(FrameKind.HEARTBEAT)
            self._is_quiet = True

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status  # whoever forwards it adds the request id
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
