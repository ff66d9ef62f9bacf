"""The engine-core process: drain inputs, make a step, send each front-end its news. No torch here; workers have it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from types import FrameType
from typing import Protocol

import msgspec
import numpy as np
import zmq

from penstock import envs
from penstock.core.request import Request, RequestKey
from penstock.engine.child import ChildArguments, begin
from penstock.engine.client import has_message
from penstock.engine.context import fit_context
from penstock.engine.core import EngineCore
from penstock.engine.launch import ChildFailed, EngineStarted, Launch, ReportWriter
from penstock.engine.messages import ClientBatch, ClientHello, EngineReady, SchedulerStats, StepOutputs
from penstock.engine.sharing import Identity, Sharing
from penstock.errors import PenstockError
from penstock.logs import configure, event
from penstock.wire import decoder, encode
from penstock.worker.executor import ProcessExecutor, WorkerDied, death_of

STATS_SECONDS = 0.5  # how old the gauges of a front-end may get while steps are made
QUIET_MS = 1000

_log = logging.getLogger("penstock.engine")


class Core(Protocol):
    """What the process needs of `EngineCore`."""

    @property
    def has_work(self) -> bool:
        """True while there is anything to do."""

    @property
    def is_waiting(self) -> bool:
        """True if `step` would do nothing before something comes from outside."""

    @property
    def has_leases(self) -> bool:
        """True while `step` must be called now and then, also without work."""

    def add(self, request: Request, output_ids: bytes = b"", lend_from: int | None = None) -> None:
        """Queue a request."""

    def abort(self, keys: Collection[RequestKey]) -> None:
        """Forget requests."""

    def abort_client(self, client: int) -> None:
        """Forget a front-end's requests."""

    def step(self) -> dict[int, StepOutputs]:
        """Make one step; news by front-end."""

    def check_integrity(self) -> str | None:
        """A sentence about broken block accounting, or None."""

    def stats(self) -> SchedulerStats:
        """Gauges and totals."""


class CoreServer:
    """One life of the engine core behind its sockets. Messages of another epoch, and bytes that are none, are dropped.

    Fatal are an exception out of the core (the scheduler is wrong, or its executor failed) and `fail`; nothing else.
    """

    def __init__(
        self, core: Core, launch: Launch, ready: EngineReady, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_dropped = 0
        self._core, self._launch, self._ready, self._clock = core, launch, ready, clock
        self._context = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.RCVHWM, 0)
        self._inbox.bind(launch.engine_address())
        self._outboxes: dict[int, zmq.Socket[bytes]] = {}  # client number -> PUSH
        self._decoder = decoder(ClientBatch | ClientHello)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poller = zmq.Poller()
        self._poller.register(self._inbox, zmq.POLLIN)
        self._poller.register(self._wake_read, zmq.POLLIN)
        self._is_stopping = False
        self._failure: Exception | None = None
        self._is_checked = True  # the block accounting, since there was work
        self._stats_sent_at = 0.0
        self._are_gauges_stale = False

    def run(self) -> None:
        """Serve until `stop`; what is fatal comes out of here."""
        while not self._is_stopping:
            if self._core.is_waiting:
                self._rest()
            self._drain()
            if self._failure is not None:
                raise self._failure
            if self._core.has_work or self._core.has_leases:
                self._send_stats_if_due()  # a step may be long
                self._publish(self._core.step())

    def stop(self) -> None:
        """Let `run` return after the present step; safe in a signal handler."""
        self._is_stopping = True
        self.wake()

    def fail(self, failure: Exception) -> None:
        """Let `run` raise `failure` after the present step; safe in a signal handler."""
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Let `run` look for something to do; safe in a signal handler and from any thread."""
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Close the sockets; gives what was sent a moment to leave."""
        self._context.destroy(linger=100)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _rest(self) -> None:
        """Wait for a message or a wake-up, without spinning; after a while of quiet, check the books once.

        While there is work or a lease, time may matter: it waits for a while and no longer.
        """
        self._send_stats()
        is_idle = not self._core.has_work and not self._core.has_leases
        while not (ready := dict(self._poller.poll(None if self._is_checked and is_idle else QUIET_MS))):
            if not is_idle:
                return
            self._is_checked = True
            if problem := self._core.check_integrity():
                event(_log, "integrity.broken", level=logging.ERROR, problem=problem)
                self._are_gauges_stale = True
                self._send_stats()
        if self._wake_read in ready:
            os.read(self._wake_read, 1 << 16)

    def _drain(self) -> None:
        while has_message(self._inbox):
            data = self._inbox.recv(zmq.NOBLOCK)
            try:
                message = self._decoder.decode(data)
            except msgspec.DecodeError as error:
                self.num_dropped += 1
                event(_log, "message.dropped", level=logging.WARNING, bytes=len(data), why=str(error))
                continue
            if isinstance(message, ClientHello):
                self._greet(message.client)
            elif message.epoch == self._ready.epoch and message.client in self._outboxes:
                self._take(message)

    def _take(self, batch: ClientBatch) -> None:
        for add in batch.add:
            self._core.add(add.request, add.output_ids, add.lend_from)
        if batch.abort:
            self._core.abort([RequestKey(batch.client, handle) for handle in batch.abort])
        self._are_gauges_stale = True

    def _greet(self, client: int) -> None:
        """A front-end began: forget what it, and the process that had its slot before it, still had here."""
        num_slots = self._launch.config.server.api_servers
        for known in [known for known in self._outboxes if known % num_slots == client % num_slots]:
            self._core.abort_client(known)
            if known != client:
                self._outboxes.pop(known).close(linger=0)
        if client not in self._outboxes:
            outbox = self._context.socket(zmq.PUSH)
            outbox.setsockopt(zmq.SNDHWM, 0)  # what can pile up is bounded by what is in flight
            outbox.connect(self._launch.client_address(client))
            self._outboxes[client] = outbox
        self._outboxes[client].send(encode(self._ready), zmq.NOBLOCK)
        self._are_gauges_stale = True

    def _publish(self, news: dict[int, StepOutputs]) -> None:
        stats = None if self._core.has_work else self._core.stats()  # who hears of the last end, hears that it was
        for client, outputs in news.items():
            if outbox := self._outboxes.get(client):
                told = msgspec.structs.replace(outputs, epoch=self._ready.epoch, stats=stats)
                outbox.send(encode(told), zmq.NOBLOCK)
        self._are_gauges_stale, self._is_checked = True, False
        self._send_stats_if_due()

    def _send_stats_if_due(self) -> None:
        if self._clock() - self._stats_sent_at >= STATS_SECONDS:
            self._send_stats()

    def _send_stats(self) -> None:
        """Bring every front-end's gauges up to date: twice a second during work, and once when it ends."""
        if not self._are_gauges_stale:
            return
        self._stats_sent_at, self._are_gauges_stale = self._clock(), False
        nothing = StepOutputs(
            epoch=self._ready.epoch,
            handles=np.empty(0, np.int64),
            token_ids=np.empty(0, np.int32),
            finish=np.empty(0, np.uint8),
            stats=self._core.stats(),
        )
        for outbox in self._outboxes.values():
            outbox.send(encode(nothing), zmq.NOBLOCK)


def build_server(launch: Launch, executor: ProcessExecutor, sharing: Sharing) -> tuple[CoreServer, EngineStarted]:
    """Load the model and open the sockets. Raises `PenstockError` with a line for a person."""
    capacity = executor.start()
    max_model_len = fit_context(launch.config, launch.max_model_len, capacity)
    core = EngineCore(launch.config, executor, capacity, max_model_len, sharing.attach(executor, capacity))
    num_blocks, block_size = capacity.num_blocks - 1, launch.config.cache.block_size
    ready = EngineReady(
        epoch=sharing.identity.epoch,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        session=sharing.identity.session,
        fingerprint=sharing.identity.fingerprint,
        endpoint=sharing.endpoint,
        startup_seconds=capacity.phases,
        memory_bytes=capacity.memory,
        headroom_bytes=capacity.headroom_bytes,
    )
    started = EngineStarted(
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        weights_bytes=capacity.weights_bytes,
        kv_bytes=num_blocks * capacity.block_bytes,
        load_seconds=capacity.load_seconds,
    )
    server = CoreServer(core, launch, ready)
    sharing.start(server.wake)
    return server, started


def watch_signals(server: CoreServer) -> None:
    """SIGTERM ends the process in order; the death of a worker ends it at once, also when nothing runs."""

    def on_child(number: int, frame: FrameType | None) -> None:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody took notice of it already
            server.fail(WorkerDied("a worker died"))
            return
        if ended is not None:
            is_exit = ended.si_code == os.CLD_EXITED
            server.fail(death_of("a worker", ended.si_status if is_exit else -ended.si_status))

    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGCHLD, on_child)


def main(words: list[str]) -> int:
    """The process from start to exit code; 0 only after SIGTERM."""
    arguments = ChildArguments.parse(words)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch, reports = begin("penstock:engine-core", arguments)
    configure("engine-core", envs.log_level())
    with contextlib.ExitStack() as parts:
        try:
            serve(launch, reports, arguments.number, parts)
        except PenstockError as error:
            reports.send(ChildFailed(message=str(error), exit_code=error.exit_code))
            return error.exit_code
        except Exception as error:  # the engine loop's top: logged once, and the supervisor starts a new life
            _log.exception("engine.failed")
            reports.send(ChildFailed(message=f"the engine core failed: {type(error).__name__}: {error}", exit_code=1))
            return 1
    return 0


def serve(launch: Launch, reports: ReportWriter, epoch: int, parts: contextlib.ExitStack) -> None:
    """Load, say so, and work until SIGTERM; what must be closed at the end, however that comes, goes to `parts`."""
    sharing = Sharing(launch, Identity.of(launch, epoch))
    executor = ProcessExecutor(launch.config, launch.folder_path, launch.run_path, sharing.worker_launch)
    parts.callback(executor.close)
    parts.callback(signal.signal, signal.SIGCHLD, signal.SIG_DFL)
    parts.callback(sharing.close)
    server, started = build_server(launch, executor, sharing)
    watch_signals(server)
    reports.send(started)
    server.run()
    server.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
