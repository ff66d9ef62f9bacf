"""The engine as a front-end process sees it: submit requests, iterate over what they produce, survive engine deaths."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from penstock.config import EngineConfig
from penstock.core.request import Request
from penstock.engine.client import EngineClient
from penstock.engine.health import Progress
from penstock.engine.input import InputProcessor
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
from penstock.errors import Overloaded
from penstock.logs import event
from penstock.models.spec import ModelSpec
from penstock.tokenizer import Tokenizer

HELLO_SECONDS = 0.1  # repeated until the engine answers: a hello can die with the engine it was sent to
MAX_DEATHS = 2  # a request in flight at this many engine deaths may be their cause

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
        self.is_draining = False
        self._output = OutputProcessor(tokenizer)
        self._progress = Progress()
        self._streams: dict[int, OutputStream] = {}  # handle -> the stream it belongs to
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
    def is_healthy(self) -> bool:
        """False if a ready engine has work of ours and has made no step for 30 seconds."""
        return self.engine is None or self._progress.is_healthy(self._clock(), is_pending=bool(self._streams))

    @property
    def num_in_flight(self) -> int:
        """Unfinished choices of this front-end."""
        return len(self._streams)

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

    def submit(self, requests: Sequence[Request]) -> OutputStream:
        """Start requests from `self.input`. While the engine is being restarted they wait for the next one.

        Raises `Overloaded` before the first engine is there, while draining, and when the queue limit is reached.
        """
        if self.is_draining:
            raise Overloaded("the server is shutting down")
        if self._epoch == 0:
            raise Overloaded("the model is still being loaded")
        if self._num_waiting() >= self.config.scheduler.max_waiting:
            raise Overloaded("too many requests are waiting; try again shortly")
        if not self._streams:
            self._progress.last = self._clock()
        stream = OutputStream(requests, self._abort)
        for request in requests:
            self._streams[request.handle] = stream
            self._output.add(request, self._deliver)
            self._adds.append(AddRequest(request=request))
        self._schedule_flush()
        return stream

    def drain(self) -> None:
        """Take no more requests; what runs goes on. Idempotent, and `undrain` takes it back."""
        self.is_draining = True

    def undrain(self) -> None:
        """Take requests again."""
        self.is_draining = False

    async def wait_idle(self) -> None:
        """Return when nothing of this front-end is in flight."""
        while self._streams:
            await asyncio.sleep(0.02)

    def fail_all(self, message: str) -> None:
        """End everything in flight with an error event."""
        for handle in list(self._streams):
            self._fail(handle, message)

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
        adds = [add for add in self._adds if add.request.handle in self._streams]
        aborts, self._adds, self._aborts = self._aborts, [], []
        if self.engine is not None and (adds or aborts):
            self._tell(adds, aborts)

    def _tell(self, adds: Sequence[AddRequest], aborts: Sequence[int]) -> None:
        for add in adds:
            self._streams[add.request.handle].is_told = True
        self._client.send(
            ClientBatch(client=self._client.number, epoch=self._epoch, add=tuple(adds), abort=tuple(aborts))
        )

    def _abort(self, handles: Sequence[int]) -> None:
        for handle in handles:
            del self._streams[handle]
            self._output.drop(handle)
        self._aborts.extend(handles)
        self._schedule_flush()

    def _fail(self, handle: int, message: str) -> None:
        self._aborts.append(handle)
        self._output.fail(handle, message)
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

    def _take_outputs(self, outputs: StepOutputs) -> None:
        now = self._clock()
        if outputs.stats is not None:
            self.stats = outputs.stats
            self._progress.saw_counter(outputs.stats.num_steps, now)
        if len(outputs.handles):
            self._progress.saw_step(now)
        stopped = self._output.process(outputs)
        if stopped:
            self._aborts.extend(stopped)
            self._schedule_flush()

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
        self._epoch, self.engine = message.epoch, message
        self.input.max_model_len = message.max_model_len  # the engine may have room for less than the model allows
        self._progress.reset(self._clock())
        in_flight = [add for add in self._output.in_flight() if add.request.handle in self._streams]
        self._adds, self._aborts = [], []  # all of it is in what is told now
        if in_flight:
            self._tell(in_flight, ())
        level = logging.DEBUG if message.epoch == 1 else logging.INFO
        event(_log, "engine.ready", level=level, epoch=message.epoch, told_again=len(in_flight))
        self._ready.set()

    def _count_death(self) -> None:
        for stream in dict.fromkeys(self._streams.values()):
            stream.num_deaths += stream.is_told
            stream.is_told = False
            if stream.num_deaths >= MAX_DEATHS:
                for handle in stream.open_handles:
                    self._fail(handle, "the engine died twice while it worked on this request")

    def _deliver(self, delta: OutputDelta) -> None:
        stream = self._streams[delta.handle]
        if delta.finish_reason is not None:
            del self._streams[delta.handle]
            stream.close_handle(delta.handle)
        stream.push(delta)


class OutputStream:
    """What some requests produce: an asynchronous iterator over lists of deltas, each list all that piled up.

    It ends when every choice has finished. Whoever stops earlier calls `aclose`, which aborts the rest.
    """

    def __init__(self, requests: Sequence[Request], abort: Callable[[Sequence[int]], None]) -> None:
        self.num_deaths = 0  # engines that died with this in flight
        self.is_told = False  # to the engine of the present epoch
        self._open = {request.handle: None for request in requests}  # in order
        self._abort = abort
        self._pending: list[OutputDelta] = []
        self._waiter: asyncio.Future[None] | None = None

    @property
    def open_handles(self) -> tuple[int, ...]:
        """Handles of the choices that have not finished."""
        return tuple(self._open)

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> list[OutputDelta]:
        """The next deltas, in order over all choices; waits for at least one."""
        while not self._pending:
            if not self._open:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None
        pending, self._pending = self._pending, []
        return pending

    async def aclose(self) -> None:
        """Abort the choices that have not finished, and end the iteration. Idempotent."""
        handles, self._open = self.open_handles, {}
        if handles:
            self._abort(handles)
        self._wake()

    def push(self, delta: OutputDelta) -> None:
        """Add a delta for the iterator."""
        self._pending.append(delta)
        self._wake()

    def close_handle(self, handle: int) -> None:
        """This choice has finished; its last delta is pushed next."""
        del self._open[handle]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
