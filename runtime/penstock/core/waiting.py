"""Requests that have no row yet, in the policy's order."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.core.plan import Ints
from penstock.core.policy import Rank
from penstock.core.request import Request, RequestKey


@dataclass(slots=True, kw_only=True, eq=False)
class Waiting:
    """A request that waits: new, preempted, or told again after an engine death."""

    request: Request
    known: Ints  # [num_prompt + num_outputs so far]
    hashes: list[bytes]  # of its full blocks
    rank: Rank
    sequence: int
    is_new: bool  # the client has not been told yet how much of the prompt was cached
    num_overtaken: int = 0


class WaitingQueue:
    """Sorted by (rank, sequence); a preempted request keeps its sequence and so returns to its place."""

    def __init__(self) -> None:
        self._entries: list[Waiting] = []
        self._keys: set[RequestKey] = set()
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._entries)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._keys

    def push(self, entry: Waiting) -> None:
        """Insert at its place."""
        bisect.insort(self._entries, entry, key=lambda waiting: (waiting.rank, waiting.sequence))
        self._keys.add(entry.request.key)
        self.num_tokens += len(entry.known)

    def remove(self, entries: list[Waiting]) -> None:
        """Take entries out, wherever they stand."""
        if not entries:
            return
        gone = set(map(id, entries))
        self._entries = [entry for entry in self._entries if id(entry) not in gone]
        for entry in entries:
            self._keys.discard(entry.request.key)
            self.num_tokens -= len(entry.known)
