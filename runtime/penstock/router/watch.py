"""Keeps the table of pods up to date: looks up who there is, asks each how it is doing, notices calls that are dead."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence

import aiohttp
import msgspec

from penstock.internal.credentials import ClusterKeys, query_claims
from penstock.internal.protocol import LOAD_PATH, Load
from penstock.logs import event
from penstock.router.endpoint import Endpoint, State
from penstock.router.endpoints import EndpointTable
from penstock.router.ledger import Ledger
from penstock.router.sources import Source

POLL_SECONDS = 0.5
POLL_TIMEOUT = 2.0
LOOK_UP_SECONDS = 1.0
REFRESH_SECONDS = 0.25  # that somebody waits for loads of now
SWEEP_SECONDS = 0.5
SILENT_SECONDS = 8.0  # without a byte, after which a call is dead; pods send something every second
LONGEST_LOAD = 1 << 16  # bytes of an answer

_log = logging.getLogger("penstock.router")


class Watch:
    """The tasks around an `EndpointTable`, from `start` to `close`."""

    def __init__(
        self,
        table: EndpointTable,
        sources: Sequence[tuple[str, Source]],
        *,
        keys: ClusterKeys,
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        """`sources`: role and where its pods are."""
        self._table, self._sources = table, sources
        self._keys, self._ledger, self._clock = keys, ledger, clock
        self._decoder = msgspec.json.Decoder(Load)
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wakers: dict[str, asyncio.Event] = {}

    async def start(self) -> None:
        """Look up the pods and ask each once, then go on in the background."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2 * POLL_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )
        new = await self._look_up()
        await asyncio.gather(*(self._ask(endpoint) for endpoint in new))
        self._table.settle()
        for endpoint in new:
            self._begin(self._follow(endpoint))
        if not self._table.is_up:
            event(
                _log, "pods.none", level=logging.WARNING, why="no decode pod is ready; requests are held until one is"
            )
        self._begin(self._keep_list())
        self._begin(self._sweep())

    async def close(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def ask_soon(self, endpoint: Endpoint) -> None:
        """Ask a pod now: something happened to a call to it."""
        if (waker := self._wakers.get(endpoint.address)) is not None:
            waker.set()

    async def refresh(self) -> None:
        """Ask all pods that answer, and wait a moment for what they say: their loads are of now then."""
        began = self._clock()
        while self._clock() - began < REFRESH_SECONDS:
            stale = [
                one
                for one in self._table
                if one.load is not None and one.state is not State.DOWN and one.asked_at < began
            ]
            if not stale:
                return
            for endpoint in stale:
                self.ask_soon(endpoint)
            await asyncio.sleep(0.005)

    def _begin(self, work: object) -> None:
        assert asyncio.iscoroutine(work), f"{work!r} is no coroutine"
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        """A task is over. One that broke is a defect of ours: this worker ends in order, and a new one follows."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("watch.broken", exc_info=error)
            signal.raise_signal(signal.SIGTERM)

    async def _look_up(self) -> list[Endpoint]:
        found = await asyncio.gather(*(source.look_up() for _, source in self._sources))
        pairs = zip(self._sources, found, strict=True)
        return self._table.list_only([(role, address) for (role, _), addresses in pairs for address in addresses])

    async def _keep_list(self) -> None:
        while True:
            await asyncio.sleep(LOOK_UP_SECONDS)
            for endpoint in await self._look_up():
                self._begin(self._follow(endpoint))
            self._table.settle()

    async def _follow(self, endpoint: Endpoint) -> None:
        """Ask one pod twice a second for as long as it is in the table."""
        waker = self._wakers[endpoint.address] = asyncio.Event()
        try:
            while endpoint.address in self._table and self._table[endpoint.address] is endpoint:
                began = self._clock()
                await self._ask(endpoint)
                self._table.settle()
                waker.clear()
                try:
                    async with asyncio.timeout(max(0.05, began + POLL_SECONDS - self._clock())):
                        await waker.wait()
                except TimeoutError:
                    continue
        finally:
            if self._wakers.get(endpoint.address) is waker:
                del self._wakers[endpoint.address]

    async def _ask(self, endpoint: Endpoint) -> None:
        """One question, and what the answer means."""
        session = self._session
        assert session is not None, "asked before start"
        began, num_before = self._clock(), self._ledger.count(endpoint.address)
        headers = {"Authorization": self._keys.sign(query_claims(LOAD_PATH))}
        try:
            async with asyncio.timeout(POLL_TIMEOUT):
                async with session.get(f"http://{endpoint.address}{LOAD_PATH}", headers=headers) as reply:
                    data = await read_all(reply.content, LONGEST_LOAD)
                    status = reply.status
            if status in (401, 403):
                endpoint.take_refusal("does not accept our key (see --cluster-key-file)")
                return
            if status != 200:
                endpoint.take_failure(f"answers {status} instead of its load; is this the internal port of a pod?")
                return
            load = self._decoder.decode(data)
        except TimeoutError:
            endpoint.take_failure(f"no answer within {POLL_TIMEOUT:.0f} s")
        except aiohttp.ClientConnectorError as error:
            endpoint.take_failure(f"cannot connect: {error.os_error.strerror or error.os_error}", is_certain=True)
        except (aiohttp.ClientError, msgspec.DecodeError, OSError, ValueError) as error:
            endpoint.take_failure(f"does not answer like a pod: {str(error)[:200] or type(error).__name__}")
        else:
            num_own = max(num_before, self._ledger.count(endpoint.address))
            endpoint.take_load(load, began=began, now=self._clock(), num_own=num_own)

    async def _sweep(self) -> None:
        """Break off calls that have been silent for too long. If it was us who slept, everybody gets a new chance."""
        last = self._clock()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = self._clock()
            was_asleep = now - last > 4 * SWEEP_SECONDS
            last = now
            for endpoint in self._table:
                for call in list(endpoint.calls):
                    if call.waiting_since is None:
                        continue
                    if was_asleep:
                        call.waiting_since = now
                    elif now - call.waiting_since > SILENT_SECONDS:
                        call.give_up(f"nothing heard for {SILENT_SECONDS:.0f} s")
                        self.ask_soon(endpoint)


async def read_all(content: aiohttp.StreamReader, limit: int) -> bytes:
    """A body to its end. Raises `ValueError` if it is longer than `limit` bytes."""
    parts, size = [], 0
    while data := await content.readany():
        parts.append(data)
        size += len(data)
        if size > limit:
            raise ValueError(f"an answer of more than {limit:,} bytes")
    return b"".join(parts)
