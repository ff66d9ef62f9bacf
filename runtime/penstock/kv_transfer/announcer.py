"""Puts checksums on what is announced to peers, without changing the order of what each is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

import msgspec
import numpy as np

from penstock.core.request import RequestKey
from penstock.internal.protocol import Announcement, Computed
from penstock.kv_transfer.lender import News
from penstock.kv_transfer.messages import Checksum

Tell = Callable[[RequestKey, Announcement | None], None]


class Queued(msgspec.Struct):
    """Something to tell, once the checksums of `positions` are known."""

    announcement: Announcement | None
    call: int = 0  # of the checksums that are missing; 0: none are
    positions: list[int] = []


class Announcer:
    """A queue for each call; `ask` gets the checksums, `tell` gets what is complete."""

    def __init__(self, share: float, random: Random, *, ask: Callable[[Checksum], None], tell: Tell) -> None:
        self._share, self._random, self._ask, self._tell = share, random, ask, tell
        self._queues: dict[RequestKey, deque[Queued]] = {}
        self._asked: dict[int, RequestKey] = {}
        self._num_calls = 0

    def announce(self, news: Sequence[News]) -> None:
        """Tell these in time."""
        for key, announcement in news:
            queued = Queued(announcement=announcement)
            if isinstance(announcement, Computed):
                queued = self._with_checksums(key, announcement)
            self._queues.setdefault(key, deque()).append(queued)
            self._flush(key)

    def take(self, call: int, values: Sequence[int]) -> None:
        """Checksums that were asked for."""
        if (key := self._asked.pop(call, None)) is None:
            return
        for queued in self._queues.get(key, ()):
            if queued.call == call and isinstance(queued.announcement, Computed):
                checksums = list(zip(queued.positions, values, strict=True))
                queued.announcement = msgspec.structs.replace(queued.announcement, checksums=checksums)
                queued.call = 0
        self._flush(key)

    def _with_checksums(self, key: RequestKey, computed: Computed) -> Queued:
        positions = [at for at in range(len(computed.blocks)) if self._random.random() < self._share]
        if not positions:
            return Queued(announcement=computed)
        self._num_calls += 1
        self._asked[self._num_calls] = key
        self._ask(
            Checksum(call=self._num_calls, blocks=np.array([computed.blocks[at] for at in positions], dtype=np.int32))
        )
        return Queued(announcement=computed, call=self._num_calls, positions=positions)

    def _flush(self, key: RequestKey) -> None:
        queue = self._queues[key]
        while queue and not queue[0].call:
            self._tell(key, queue.popleft().announcement)
        if not queue:
            del self._queues[key]
