"""One client's request on its way: to a pod, from there to the client, and on to another pod when that one is lost."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from penstock.errors import EngineFailure, Overloaded, RequestError
from penstock.internal.frames import BrokenFrame, Frame, FrameKind, FrameReader
from penstock.internal.protocol import RoutedCall
from penstock.logs import event
from penstock.router.admission import Waiter
from penstock.router.choose import prefix_keys
from penstock.router.door import Place
from penstock.router.endpoint import Endpoint
from penstock.router.glance import Glance
from penstock.router.resume import Journal
from penstock.router.service import Service
from penstock.router.upstream import Call, Head, Lost, Silent, Stalled
from penstock.server.exchange import JSON, ClientGone, Headers

FULL_SECONDS = 0.5  # how long a pod that refused for lack of room is left alone
REFUSED = Head(status=503, content_type=JSON, headers=[(b"retry-after", b"1")])

_log = logging.getLogger("penstock.router")


class Sink(Protocol):
    """Where the answer goes: a client's connection, or what is kept for a retry."""

    request_id: str
    started_at: float  # seconds
    is_streaming: bool
    is_disconnected: bool

    async def on_disconnect(self, act: Callable[[], Awaitable[None]]) -> None:
        """Await `act` when nobody wants the answer any more."""

    async def respond(
        self, body: bytes, content_type: bytes, status: int = 200, headers: Headers | None = None
    ) -> None:
        """Answer with a whole body."""

    async def start_stream(self) -> None:
        """Begin a stream of server-sent events."""

    async def send(self, events: bytes) -> None:
        """Send events."""

    async def end_stream(self, events: bytes = b"") -> None:
        """Send the last events."""


class Relay:
    """Carries one request; made for it and used once."""

    def __init__(self, service: Service, sink: Sink, told: RoutedCall, tenant: str) -> None:
        glance = Glance.of(told.body)
        self._service, self._sink = service, sink
        self._path, self._is_stream = told.path, glance.is_stream
        self._journal = Journal(told)
        self._waiter = Waiter(
            tenant=tenant, work=glance.work, since=service.clock(), keys=prefix_keys(told.salt, glance.text)
        )
        self._call: Call | None = None
        self._lost_since: float | None = None  # there was a place until then, and nothing has come since
        self._refusal: tuple[Head, bytes] | None = None  # what the last pod said that had no room
        self._began = service.clock()
        self._waited = 0.0  # seconds at the door
        self._added = 0.0  # seconds of our own work
        self._has_answered = False
        self._has_left = False  # a pod that stalled
        self._was_silent = False  # a pod that had it
        self._error: RequestError | None = None  # somebody ended it with this

    async def run(self) -> None:
        """Answer the client, whatever becomes of the pods. Raises `RequestError`, `ClientGone`."""
        self._service.running.add(self)
        try:
            await self._run()
        finally:
            self._service.running.discard(self)

    async def _run(self) -> None:
        service, sink = self._service, self._sink
        await sink.on_disconnect(self._leave)
        while True:
            before = service.clock()
            try:
                place = await service.door.enter(self._waiter, lost_since=self._lost_since)
            except Overloaded:
                if self._refusal is None or sink.is_streaming:
                    raise
                head, body = self._refusal
                await sink.respond(body, head.content_type, head.status, head.headers)
                return
            self._waited += service.clock() - before
            try:
                if await self._try(place):
                    return
            finally:
                place.leave()
            if sink.is_disconnected:
                raise ClientGone

    def cut(self, error: RequestError) -> None:
        """End it with an error."""
        self._error = error
        self._service.door.give_up(self._waiter, error)
        if self._call is not None:
            self._call.break_off(str(error))

    async def _leave(self) -> None:
        """The client is gone: nobody works for it any more."""
        self._service.door.give_up(self._waiter, ClientGone())
        if self._call is not None:
            self._call.break_off("the client left")

    async def _try(self, place: Place) -> bool:
        """Have one pod answer, or go on; False if another must. Raises `EngineFailure` after too many deaths."""
        service, endpoint = self._service, place.endpoint
        if self._sink.is_disconnected:
            raise ClientGone
        told = self._journal.next_call()
        if told.records or told.num_deaths:
            service.metrics.count_resume()
        if self._journal.num_attempts == 1:
            self._added = service.clock() - self._began - self._waited
        self._call = call = Call(service.upstream, endpoint, may_leave=not self._has_left)
        try:
            head = await call.open(told)
            if head.status != 200:
                return await self._take_error(endpoint, head, await call.read_rest())
            if endpoint.load is not None:
                self._waiter.revision = endpoint.load.revision
            return await self._follow(call, place)
        except (Lost, BrokenFrame) as loss:
            if self._sink.is_disconnected:
                raise ClientGone from None
            if self._error is not None:
                raise self._error from None
            self._note_loss(endpoint, loss)
            return False
        finally:
            self._call = None
            call.close()

    async def _follow(self, call: Call, place: Place) -> bool:
        """Pass on what the pod says until it ends."""
        reader, journal = FrameReader(), self._journal
        while True:
            data = await call.read()
            arrived = self._service.clock()
            if not data:
                raise Lost("the answer broke off", is_death=True)
            payload, ending = journal.take(reader.feed(data))
            if ending is None:
                if payload:
                    await self._send(payload, arrived)
                continue
            if ending.kind is FrameKind.MOVED:
                if payload:
                    await self._send(payload, arrived)
                self._note_move(place.endpoint)
                return False
            if self._is_refusal(payload, ending):
                return await self._take_error(place.endpoint, REFUSED, ending.payload)
            place.leave()  # before the client knows, so that it finds the numbers right
            self._call = None  # nor does it end anything by leaving now
            await self._end(payload, ending, arrived)
            await call.finish()
            return True

    def _is_refusal(self, payload: bytes, ending: Frame) -> bool:
        """True if the pod had no room after all, and the client has seen nothing."""
        return not self._sink.is_streaming and not payload and status_of(ending) == REFUSED.status

    async def _send(self, payload: bytes, arrived: float) -> None:
        sink = self._sink
        if not sink.is_streaming:
            await sink.start_stream()
        await sink.send(payload)
        self._lost_since = None
        if not self._has_answered:
            self._count_answer(arrived)

    async def _end(self, payload: bytes, ending: Frame, arrived: float) -> None:
        """The last of the answer: a stream's last events, or a body."""
        sink, last = self._sink, payload + ending.payload
        status = status_of(ending)
        if sink.is_streaming or (self._is_stream and status == 200):
            if not sink.is_streaming:
                await sink.start_stream()
            await sink.end_stream(last)
        else:
            await sink.respond(last, JSON, status)
        if not self._has_answered:
            self._count_answer(arrived)
        self._service.metrics.count_completed()

    async def _take_error(self, endpoint: Endpoint, head: Head, body: bytes) -> bool:
        """A pod has refused: the client is told the same, unless another pod may think otherwise."""
        service, now = self._service, self._service.clock()
        if head.status in (401, 403):  # it was our token: the pod has a new life, or another key
            self._lose(endpoint)
            return False
        if head.status == 503:
            self._refusal = (head, body)
            endpoint.full_until = now + FULL_SECONDS
            self._lose(endpoint)
            service.metrics.count_retry()
            return False
        if self._sink.is_streaming:
            raise EngineFailure(f"the request could not go on at another pod (status {head.status})")
        await self._sink.respond(body, head.content_type, head.status, head.headers)
        return True

    def _lose(self, endpoint: Endpoint) -> None:
        now = self._service.clock()
        self._waiter.lost_at[endpoint.address] = now
        self._lost_since = now if self._lost_since is None else self._lost_since
        self._service.watch.ask_soon(endpoint)

    def _note_loss(self, endpoint: Endpoint, loss: Lost | BrokenFrame) -> None:
        """The pod or the way to it is gone. Raises `EngineFailure` when that counts, and was too often."""
        is_death = not isinstance(loss, Lost) or loss.is_death
        if isinstance(loss, Silent):  # once that may be a machine too busy to answer, which is nobody's fault
            is_death, self._was_silent = self._was_silent, True
        event(
            _log,
            "request.lost",
            level=logging.DEBUG,  # a pod that dies loses many at once, and says so in one line
            request_id=self._sink.request_id,
            address=endpoint.address,
            why=str(loss),
        )
        self._lose(endpoint)
        self._has_left = self._has_left or isinstance(loss, Stalled)
        if is_death:
            self._service.metrics.count_loss()
            self._journal.count_death()
        else:
            self._service.metrics.count_retry()

    def _note_move(self, endpoint: Endpoint) -> None:
        self._lose(endpoint)
        self._service.metrics.count_move()

    def _count_answer(self, arrived: float) -> None:
        """The first of the answer has gone out: note what it took here, the pod's time and the wait apart."""
        self._has_answered = True
        now = self._service.clock()
        self._service.metrics.count_first(waited=self._waited, added=self._added + now - arrived)


def status_of(ending: Frame) -> int:
    """The HTTP status that a last frame stands for."""
    if ending.kind is FrameKind.END:
        return 200
    return int(ending.record) if ending.record.isdigit() and 400 <= int(ending.record) <= 599 else 500
