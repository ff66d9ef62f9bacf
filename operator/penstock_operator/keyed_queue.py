"""What has to be looked at, by key: each key once however often it is added, and never by two threads at once."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

FIRST_RETRY, LAST_RETRY = 0.5, 300.0  # seconds
SOON = 10.0  # seconds: longest retry of what waits for others to come back

K = TypeVar("K", bound=Hashable)


class KeyedQueue(Generic[K]):
    """A thread-safe queue of keys with due times and back-off. A key that is being worked on waits until that ends."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._changed = threading.Condition()
        self._due: dict[K, float] = {}  # what waits; entries of the heap that say otherwise are stale
        self._heap: list[tuple[float, int, K]] = []
        self._sometime: dict[K, None] = {}  # looked at when nothing is due, in this order
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._count = 0  # order among equal times
        self._is_closed = False

    def __len__(self) -> int:
        """How many keys wait, due or not."""
        with self._changed:
            return len(self._due.keys() | self._sometime.keys())

    @property
    def num_due(self) -> int:
        """How many keys could be worked on now."""
        with self._changed:
            now = self._clock()
            return sum(due <= now for due in self._due.values())

    def add(self, key: K, after: float = 0.0) -> None:
        """Have it looked at in that many seconds, or earlier if somebody asked for that."""
        with self._changed:
            self._add(key, after)

    def add_for_later(self, key: K) -> None:
        """Have it looked at as soon as nothing else is due: thousands that are fine keep none waiting that is not."""
        with self._changed:
            self._sometime[key] = None
            self._changed.notify()

    def take(self, seconds: float) -> K | None:
        """The next key that is due, which is then ours until `finish`; None after that time, or once closed."""
        deadline = self._clock() + seconds
        with self._changed:
            while not self._is_closed:
                now = self._clock()
                if (key := self._pop(now)) is not None:
                    return key
                if now >= deadline:
                    break
                self._changed.wait(min(deadline, self._heap[0][0] if self._heap else deadline) - now)
        return None

    def finish(self, key: K) -> None:
        """It was looked at; failures before are forgotten. What was added meanwhile is due as it was asked for."""
        with self._changed:
            self._failures.pop(key, None)
            self._release(key)

    def fail(self, key: K, longest: float = LAST_RETRY) -> float:
        """It has to be looked at again, after twice the time of last time; returns the seconds."""
        with self._changed:
            count = self._failures[key] = self._failures.get(key, -1) + 1
            seconds: float = min(FIRST_RETRY * 2 ** min(count, 20), longest)
            self._release(key)
            self._add(key, seconds)
            return seconds

    def close(self) -> None:
        """No more keys: everybody who waits returns."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _add(self, key: K, after: float) -> None:
        due = self._clock() + after
        if self._due.get(key, due + 1.0) <= due:
            return
        self._due[key] = due
        if key not in self._running:
            self._push(due, key)

    def _push(self, due: float, key: K) -> None:
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))
        self._changed.notify()

    def _pop(self, now: float) -> K | None:
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due and key not in self._running:
                del self._due[key]
                self._sometime.pop(key, None)
                self._running.add(key)
                return key
        for key in self._sometime:
            if key not in self._running:
                del self._sometime[key]
                self._running.add(key)
                return key
        return None

    def _release(self, key: K) -> None:
        self._running.discard(key)
        if key in self._due:
            self._push(self._due[key], key)
        elif key in self._sometime:
            self._changed.notify()
