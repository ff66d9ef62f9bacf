"""The engine as a front-end process sees it: submit requests, iterate over what they produce, survive engine deaths."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from penstock.config import EngineConfig
from penstock.core.request import Request
from penstock.engine.client import EngineClient
from penstock.engine.drain_flag import DrainFlag
from penstock.engine.health import Progress
from penstock.engine.input import InputProcessor
from penstock.engine.lend_stream import Lends, LendStream
from penstock.engine.messages import (
    AddRequest,
    ClientBatch,
    ClientHello,
    EngineDown,
    EngineOutput,
    EngineReady,
    SchedulerStats,
    StepOutputs,
)
from penstock.engine.output import OutputDelta, OutputProcessor
from penstock.engine.output_stream import OutputStream
from penstock.errors import Overloaded
from penstock.kv_transfer.front_end_messages import LendNews
from penstock.logs import event
from penstock.models.spec import ModelSpec
from penstock.tokenizer import Tokenizer

HELLO_SECONDS = 0.1  # repeated until the engine answers: a hello can die with the engine it was sent to
MAX_DEATHS = 2  # a request in flight at this many engine deaths may be their cause
POISON = "the engine died twice while it worked on this request"

_log = logging.getLogger(__name__)


class AsyncLLM:
    """Requests in, streams out; one per front-end process, used from its event loop only.

    What is in flight lives in the `OutputProcessor`. When an engine with a new epoch reports, all of it is told again;
    outputs of the old epoch count up to that moment and are ignored after it, so no token is lost or doubled.
    """

    def __init__(
        self,
        *,
        config: EngineConfig,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        client: EngineClient,
        max_model_len: int,
        drain_flag: DrainFlag | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.spec, self.tokenizer = config, spec, tokenizer
        self._client, self._clock = client, clock
        self.input = InputProcessor(
            spec,
            tokenizer,
            max_model_len=max_model_len,
            block_size=config.cache.block_size,
            client=client.number,
        )
        self.stats = SchedulerStats()
        self.engine: EngineReady | None = None  # None while no engine serves
        self.known_engine: EngineReady | None = None  # the newest that served, also when it has died since
        self.sessions: tuple[str, ...] = ()  # of the two newest, the newest first
        self.drain_flag = drain_flag or DrainFlag()  # of the pod …
        self.on_stats: Callable[[], None] | None = None  # called when `stats` are new
        self._is_ending = False  # … and of this front-end
        self._output = OutputProcessor(tokenizer)
        self._progress = Progress()
        self._streams: dict[int, OutputStream] = {}  # handle -> the stream it belongs to
        self._lends = Lends(lambda handle: self._forget([handle]))  # blocks that are computed and held for peers
        self._epoch = 0  # of the newest engine that was ready
        self._dead_epoch = 0  # of the newest engine that died; word of it may overtake the engine's own words
        self._adds: list[AddRequest] = []  # of this tick of the event loop …
        self._aborts: list[int] = []
        self._is_flush_due = False  # … which one message takes to the engine
        self._ready = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_ready(self) -> bool:
        """True if an engine serves and new requests are taken."""
        return self.engine is not None and not self.is_draining

    @property
    def is_draining(self) -> bool:
        """True while nothing new is taken: this front-end is about to end, or the pod drains."""
        return self._is_ending or self.drain_flag.is_set

    @property
    def is_healthy(self) -> bool:
        """False if a ready engine has work of ours and has made no step for 30 seconds."""
        return self.engine is None or self._progress.is_healthy(self._clock(), is_pending=self._is_pending)

    @property
    def stalled_seconds(self) -> float:
        """For how long a ready engine with work has made no step, as far as this front-end knows."""
        is_pending = self._is_pending or self.stats.num_running > 0
        return self._clock() - self._progress.last if self.engine is not None and is_pending else 0.0

    @property
    def _is_pending(self) -> bool:
        return bool(self._streams) or self._lends.has_work

    @property
    def num_in_flight(self) -> int:
        """Unfinished choices of this front-end, and leases that peers hold through it."""
        return len(self._streams) + len(self._lends)

    @property
    def epoch(self) -> int:
        """Life number of the newest engine that was ready; 0 before the first one."""
        return self._epoch

    @property
    def num_dropped_messages(self) -> int:
        """Messages from the engine that could not be understood."""
        return self._client.num_dropped

    def start(self) -> None:
        """Begin to listen and introduce this front-end to the engine; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._client.start(self._loop, self._receive)
        self._say_hello()

    async def wait_ready(self) -> None:
        """Return when an engine serves."""
        await self._ready.wait()

    def submit(
        self,
        requests: Sequence[Request],
        *,
        output_ids: Mapping[int, bytes] | None = None,
        num_deaths: int = 0,
        on_death: Callable[[], None] | None = None,
    ) -> OutputStream:
        """Start requests from `self.input`. While the engine is being restarted they wait for the next one.

        What goes on here after it began at another pod brings the tokens that each handle has so far (int32) and the
        number of engines that died with it; `on_death` is called for every further one. Raises `Overloaded` before the
        first engine is there, while draining, and, for what is new, when the queue limit is reached.
        """
        self._check_open(is_new=output_ids is None)
        if not self._is_pending:
            self._progress.last = self._clock()
        stream = OutputStream(requests, self._abort, num_deaths=num_deaths, on_death=on_death)
        for request in requests:
            known = b"" if output_ids is None else output_ids.get(request.handle, b"")
            if num_deaths:
                request = msgspec.structs.replace(request, is_remote_prefill_allowed=False)
            self._streams[request.handle] = stream
            self._output.add(request, self._deliver, known)
            self._adds.append(AddRequest(request=request, output_ids=known))
        self._schedule_flush()
        return stream

    def lend(self, request: Request, start: int) -> LendStream:
        """Compute a prompt and hold its blocks from number `start` on for a peer; the stream says which can be read.

        Raises `Overloaded` while no engine serves, while draining, and when the queue limit is reached.
        """
        if self.engine is None:
            raise Overloaded("the engine is not ready")
        self._check_open(is_new=True)
        if not self._is_pending:
            self._progress.last = self._clock()
        self._adds.append(AddRequest(request=request, lend_from=start))
        self._schedule_flush()
        return self._lends.begin(request.handle)

    def _check_open(self, *, is_new: bool) -> None:
        if self.is_draining:
            raise Overloaded("the server is shutting down" if self._is_ending else "the server is draining")
        if self._epoch == 0:
            raise Overloaded("the model is still being loaded")
        if is_new and self._num_waiting() >= self.config.scheduler.max_waiting:
            raise Overloaded("too many requests are waiting; try again shortly")

    def drain(self) -> None:
        """Take no more requests in this front-end; what runs goes on. Idempotent, and `undrain` takes it back."""
        self._is_ending = True

    def undrain(self) -> None:
        """Take requests again."""
        self._is_ending = False

    async def wait_idle(self) -> None:
        """Return when nothing of this front-end is in flight."""
        while self._streams or self._lends:
            await asyncio.sleep(0.02)

    def fail_all(self, message: str) -> None:
        """End everything in flight with an error event, and every lease."""
        for handle in list(self._streams):
            self._fail(handle, message)
        self._lends.fail_all(message)

    def close(self) -> None:
        """Abort what is left and close the sockets."""
        self._loop = None
        self._client.close()

    def _num_waiting(self) -> int:
        """Requests that wait: the engine's own count, or what cannot be running yet if that is news to the engine."""
        return max(self.stats.num_waiting, len(self._streams) - self.config.scheduler.max_num_seqs)

    # -- to the engine

    def _schedule_flush(self) -> None:
        if not self._is_flush_due and self._loop is not None:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send this tick's news as one message, or nothing while there is no engine: the next is told everything."""
        self._is_flush_due = False
        adds = [add for add in self._adds if add.request.handle in self._streams or add.request.handle in self._lends]
        aborts, self._adds, self._aborts = self._aborts, [], []
        if self.engine is not None and (adds or aborts):
            self._tell(adds, aborts)

    def _tell(self, adds: Sequence[AddRequest], aborts: Sequence[int]) -> None:
        for add in adds:
            if stream := self._streams.get(add.request.handle):
                stream.is_told = True
        self._client.send(
            ClientBatch(client=self._client.number, epoch=self._epoch, add=tuple(adds), abort=tuple(aborts))
        )

    def _abort(self, handles: Sequence[int]) -> None:
        for handle in handles:
            del self._streams[handle]
            self._output.drop(handle)
        self._forget(handles)

    def _fail(self, handle: int, message: str) -> None:
        self._output.fail(handle, message)
        self._forget([handle])

    def _forget(self, handles: Sequence[int]) -> None:
        self._aborts.extend(handles)
        self._schedule_flush()

    def _say_hello(self) -> None:
        if self.engine is None and self._loop is not None:
            self._client.send(ClientHello(client=self._client.number))
            self._loop.call_later(HELLO_SECONDS, self._say_hello)

    # -- from the engine

    def _receive(self, message: EngineOutput) -> None:
        if isinstance(message, StepOutputs):
            if message.epoch == self._epoch:
                self._take_outputs(message)
        elif isinstance(message, EngineReady):
            if message.epoch > max(self._epoch, self._dead_epoch):
                self._take_ready(message)
        elif isinstance(message, EngineDown):
            self._dead_epoch = max(self._dead_epoch, message.epoch)
            if message.epoch == self._epoch and self.engine is not None:
                self._take_down(message)
        elif message.epoch == self._epoch:
            if isinstance(message, LendNews):
                self._lends.take(message)
            elif stream := self._streams.get(message.handle):
                self._strike(stream)

    def _take_outputs(self, outputs: StepOutputs) -> None:
        now = self._clock()
        if outputs.stats is not None:
            self.stats = outputs.stats
            self._progress.saw_counter(outputs.stats.num_steps + outputs.stats.num_waits, now)
            if self.on_stats is not None:
                self.on_stats()
        if len(outputs.handles):
            self._progress.saw_step(now)
        for handle, why in outputs.failed:
            self._lends.fail(handle, why)
        if stopped := self._output.process(outputs):
            self._forget(stopped)

    def _take_down(self, message: EngineDown) -> None:
        """The engine died. Outputs that it sent before may still arrive, and still count."""
        event(_log, "engine.down", epoch=message.epoch, in_flight=len(self._streams))
        self.engine = None
        self._ready.clear()
        self.stats = SchedulerStats()
        self._count_death()
        self._say_hello()

    def _take_ready(self, message: EngineReady) -> None:
        if self.engine is not None:  # its successor was faster than the word of its death
            self._count_death()
        self._epoch, self.engine, self.known_engine = message.epoch, message, message
        self.sessions = (message.session, *self.sessions)[:2]
        self.input.max_model_len = message.max_model_len  # the engine may have room for less than the model allows
        self._progress.reset(self._clock())
        in_flight = [self._again(add) for add in self._output.in_flight() if add.request.handle in self._streams]
        self._adds, self._aborts = [], []  # all of it is in what is told now
        if in_flight:
            self._tell(in_flight, ())
        level = logging.DEBUG if message.epoch == 1 else logging.INFO
        event(_log, "engine.ready", level=level, epoch=message.epoch, told_again=len(in_flight))
        self._ready.set()

    def _again(self, add: AddRequest) -> AddRequest:
        """What the next engine is told: it asks no other pod for help with what one has died of."""
        if not self._streams[add.request.handle].num_deaths:
            return add
        request = msgspec.structs.replace(add.request, is_remote_prefill_allowed=False)
        return msgspec.structs.replace(add, request=request)

    def _count_death(self) -> None:
        self._lends.fail_all("the engine died", is_death=True)
        for stream in dict.fromkeys(self._streams.values()):
            was_told, stream.is_told = stream.is_told, False
            if was_told:
                self._strike(stream)

    def _strike(self, stream: OutputStream) -> None:
        stream.count_death()
        if stream.num_deaths >= MAX_DEATHS:
            for handle in stream.open_handles:
                self._fail(handle, POISON)

    def _deliver(self, delta: OutputDelta) -> None:
        stream = self._streams[delta.handle]
        if delta.finish_reason is not None:
            del self._streams[delta.handle]
            stream.close_handle(delta.handle)
        stream.push(delta)
