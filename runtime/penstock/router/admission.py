"""Who gets the next place: fair queueing over tenants by work, first come first served within one. Pure.

Each tenant has a virtual time that advances by the work of what it is given; the tenant that is furthest behind is
next. A tenant that was idle starts at the present, so it saves up nothing (start-time fair queueing, Goyal et al.,
1996). Times are passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.errors import Overloaded

RATE_SAMPLES = 64  # places given away, over which their rate is measured
FEWEST_SAMPLES = 16
LONGEST_RETRY = 60.0  # seconds, of what is told to clients
SHORTEST_RETRY = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class Waiter:
    """A request that waits for a place."""

    tenant: str
    work: float  # estimated tokens
    since: float  # when it began to wait
    keys: tuple[bytes, ...] = ()  # hashes of its prompt's beginning, longest first
    revision: str | None = None  # of the pod that had it, which it had better stay with
    lost_at: dict[str, float] = field(default_factory=dict)  # pods that lost or refused it, and when
    tell: Callable[[object], None] = lambda place: None  # its place, or the error that ends the wait
    is_waiting: bool = False


@dataclass(slots=True, eq=False)
class Tenant:
    """The queue of one tenant."""

    name: str
    virtual: float
    queue: deque[Waiter] = field(default_factory=deque)


class Admission:
    """The queue."""

    def __init__(self, *, max_held: int, queue_seconds: float, hold_seconds: float) -> None:
        self._max_held, self._queue_seconds, self._hold_seconds = max_held, queue_seconds, hold_seconds
        self._tenants: dict[str, Tenant] = {}  # with a queue
        self._order: list[tuple[float, int, Tenant]] = []  # heap of those
        self._sequence = 0
        self._virtual = 0.0  # of the last place given away
        self._urgent: deque[Waiter] = deque()  # had a place already
        self._given: deque[float] = deque(maxlen=RATE_SAMPLES)
        self._up_since: float | None = None
        self.num_queued = 0

    @property
    def num_waiting(self) -> int:
        """All that wait."""
        return self.num_queued + len(self._urgent)

    @property
    def urgent(self) -> list[Waiter]:
        """Those that had a place and lost it; they come first."""
        return list(self._urgent)

    def set_up(self, is_up: bool, now: float) -> None:
        """Say whether there is any pod. Patience with full pods begins when the first is there."""
        if not is_up:
            self._up_since = None
        elif self._up_since is None:
            self._up_since = now

    def offer(self, waiter: Waiter, now: float) -> Waiter | None:
        """Let it wait; returns one that has to leave for it. Raises `Overloaded` if it has no chance.

        A full queue belongs to all: who has most in it gives way to a tenant that has less.
        """
        tenant = self._tenants.get(waiter.tenant)
        num_ahead = 0 if tenant is None else len(tenant.queue)
        wait = self._expected_wait(num_ahead, now)
        if self._up_since is not None and wait > self._queue_seconds:
            raise Overloaded(f"all pods are busy; the wait would be {wait:.0f} s", retry_after(wait))
        leaving = None
        if self.num_queued >= self._max_held:
            longest = max(self._tenants.values(), key=lambda one: len(one.queue))
            if num_ahead + 1 >= len(longest.queue):
                raise Overloaded("the queue is full", retry_after(wait))
            leaving = longest.queue[-1]
            self.remove(leaving)
        self._append(waiter)
        return leaving

    def offer_again(self, waiter: Waiter, since: float) -> None:
        """Let one wait that had a place until `since`; nobody who had none gets one before it."""
        waiter.since, waiter.is_waiting = since, True
        self._urgent.append(waiter)

    def take(self, now: float) -> Waiter | None:
        """The next one of the queue, which gets a place; None if nobody waits. Urgent ones are not among these."""
        while self._order:
            virtual, _, tenant = self._order[0]
            if not tenant.queue:
                heapq.heappop(self._order)
                self._tenants.pop(tenant.name, None)
                continue
            waiter = tenant.queue.popleft()
            waiter.is_waiting = False
            self.num_queued -= 1
            self._virtual = virtual
            tenant.virtual = virtual + waiter.work
            heapq.heapreplace(self._order, (tenant.virtual, self._next_sequence(), tenant))
            self._given.append(now)
            if not self.num_queued:
                self._given.clear()  # the rate is that of a time in which all pods are full
            return waiter
        return None

    def remove(self, waiter: Waiter) -> None:
        """It does not wait any more."""
        if not waiter.is_waiting:
            return
        waiter.is_waiting = False
        tenant = self._tenants.get(waiter.tenant)
        if waiter in self._urgent:
            self._urgent.remove(waiter)
        elif tenant is not None:
            tenant.queue.remove(waiter)
            self.num_queued -= 1

    def expire(self, now: float) -> list[Waiter]:
        """Take out those whose patience is over."""
        since_limit = now - (self._hold_seconds if self._up_since is None else self._queue_seconds)
        over = []
        if self._up_since is None or self._up_since <= since_limit:
            for tenant in self._tenants.values():
                while tenant.queue and tenant.queue[0].since <= since_limit:
                    over.append(tenant.queue[0])
                    self.remove(tenant.queue[0])
        for waiter in self.urgent:
            if waiter.since <= now - self._hold_seconds:
                over.append(waiter)
                self.remove(waiter)
        return over

    def _append(self, waiter: Waiter) -> None:
        tenant = self._tenants.get(waiter.tenant)
        if tenant is None:
            tenant = self._tenants[waiter.tenant] = Tenant(waiter.tenant, self._virtual)
            heapq.heappush(self._order, (tenant.virtual, self._next_sequence(), tenant))
        tenant.queue.append(waiter)
        waiter.is_waiting = True
        self.num_queued += 1

    def _expected_wait(self, num_ahead: int, now: float) -> float:
        """Seconds until a tenant with so many waiting would have its next one served; 0 if nothing is known."""
        if len(self._given) < FEWEST_SAMPLES or now <= self._given[0]:
            return 0.0
        rate = len(self._given) / (now - self._given[0])
        num_before = min(self.num_queued, (num_ahead + 1) * max(1, len(self._tenants)))
        return num_before / rate

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence


def retry_after(wait: float) -> float:
    """What a client is told, for an expected wait."""
    return min(LONGEST_RETRY, max(SHORTEST_RETRY, wait))
