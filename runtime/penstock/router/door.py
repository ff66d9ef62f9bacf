"""Where requests wait for a place at a pod, and get one: admission and choice, put to work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.errors import Overloaded, TenantLimit
from penstock.router.admission import Admission, Waiter, retry_after
from penstock.router.choose import Affinity, Candidate, choose, usable_again
from penstock.router.config import AdmissionConfig, TenantsConfig
from penstock.router.endpoint import Endpoint
from penstock.router.endpoints import EndpointTable
from penstock.router.ledger import Ledger

TURN_SECONDS = 0.02  # how often the queue looks for places that other workers gave back
TENANT_PREFIX = "tenant:"  # of names in the ledger


class Place:
    """A request's place at a pod, until `leave`."""

    __slots__ = ("_door", "_is_left", "endpoint")

    def __init__(self, door: Door, endpoint: Endpoint) -> None:
        self._door, self.endpoint, self._is_left = door, endpoint, False

    def leave(self) -> None:
        """Give it back, once."""
        if not self._is_left:
            self._is_left = True
            self._door.take_back(self.endpoint)


class Door:
    """Gives out places. One per worker; the ledger tells it what the others gave."""

    def __init__(
        self,
        table: EndpointTable,
        ledger: Ledger,
        admission: AdmissionConfig,
        tenants: TenantsConfig,
        *,
        clock: Callable[[], float],
        num_workers: int = 1,
    ) -> None:
        self._table, self._ledger, self._clock = table, ledger, clock
        self._slack, self._max_of_tenant = admission.load_slack, tenants.tenant_max_requests
        self._affinity = Affinity()
        self._queue = Admission(
            max_held=max(1, admission.max_held // num_workers),
            queue_seconds=admission.queue_seconds,
            hold_seconds=admission.hold_seconds,
        )
        self._turning: asyncio.TimerHandle | None = None
        table.listen(self.turn)

    @property
    def num_waiting(self) -> int:
        """Requests without a place, of this worker."""
        return self._queue.num_waiting

    def register(self, tenant: str) -> Callable[[], None]:
        """Count a request of a tenant; returns what ends it. Raises `TenantLimit`."""
        name = TENANT_PREFIX + tenant
        if self._max_of_tenant is not None and self._ledger.count(name) >= self._max_of_tenant:
            raise TenantLimit(f"at most {self._max_of_tenant:,} requests at once are allowed for this API key")
        self._ledger.add(name, 1)
        return lambda: self._ledger.add(name, -1)

    async def enter(self, waiter: Waiter, *, lost_since: float | None = None) -> Place:
        """A place, as soon as it is the waiter's turn. Raises `Overloaded`; or whatever `give_up` was told.

        `lost_since`: it had a place until then, and comes before those that had none.
        """
        now = self._clock()
        if (
            lost_since is None
            and not self._queue.num_waiting
            and (place := self._place(waiter, self._open())) is not None
        ):
            return place
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        waiter.tell = lambda news: _resolve(future, news)
        self._queue.set_up(self._table.is_up, now)
        if lost_since is not None:
            self._queue.offer_again(waiter, lost_since)
        elif (leaving := self._queue.offer(waiter, now)) is not None:
            leaving.tell(Overloaded("the queue is full, and you have most of it", retry_after(1.0)))
        self.turn()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().leave()
            raise
        finally:
            self._queue.remove(waiter)

    def give_up(self, waiter: Waiter, error: Exception) -> None:
        """End a wait with an error."""
        if waiter.is_waiting:
            self._queue.remove(waiter)
            waiter.tell(error)

    def turn(self) -> None:
        """Give out what places there are, and send away whose patience is over."""
        queue, now = self._queue, self._clock()
        if not queue.num_waiting:
            return
        queue.set_up(self._table.is_up, now)
        for waiter in queue.urgent:
            candidates = usable_again(self._table.candidates(), waiter.lost_at, waiter.revision)
            if (place := self._place(waiter, [one for one in candidates if not one.is_full])) is not None:
                queue.remove(waiter)
                waiter.tell(place)
        while queue.num_queued and (candidates := self._open()):
            next_one = queue.take(now)
            assert next_one is not None, f"{queue.num_queued} are queued, and none is next"
            place = self._place(next_one, candidates)
            assert place is not None, f"no place among {len(candidates)}"
            next_one.tell(place)
        for waiter in queue.expire(now):
            waiter.tell(self._patience_error())
        if queue.num_waiting and self._turning is None:
            self._turning = asyncio.get_running_loop().call_later(TURN_SECONDS, self._turn_later)

    def _turn_later(self) -> None:
        self._turning = None
        self.turn()

    def take_back(self, endpoint: Endpoint) -> None:
        """A place is free again."""
        self._ledger.add(endpoint.address, -1)
        if self._queue.num_waiting:
            self.turn()

    def _open(self) -> list[Candidate]:
        return [candidate for candidate in self._table.candidates() if candidate.has_room]

    def _place(self, waiter: Waiter, candidates: list[Candidate]) -> Place | None:
        if not candidates:
            return None
        address = choose(candidates, waiter.keys, self._affinity, slack=self._slack).address
        self._affinity.remember(waiter.keys, address)
        self._ledger.add(address, 1)
        return Place(self, self._table[address])

    def _patience_error(self) -> Overloaded:
        if self._table.is_up:
            return Overloaded("all pods are busy; the wait was too long", 5.0)
        return Overloaded("no pod is there to take the request", 5.0)


def _resolve(future: asyncio.Future[Place], news: object) -> None:
    if future.done():
        if isinstance(news, Place):
            news.leave()
    elif isinstance(news, Place):
        future.set_result(news)
    else:
        assert isinstance(news, Exception), f"a waiter was told {news!r}"
        future.set_exception(news)
