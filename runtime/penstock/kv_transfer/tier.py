"""The offload tier, as the step loop sees it: what it holds, what comes from it and what goes to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.core.kv.tickets import Tickets
from penstock.kv_transfer.messages import Fetch, Fetched, Store, Stored, TransferInput

MAX_STORES = 4  # under way at once; what ends meanwhile is not stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """Blocks that are being copied."""

    blocks: list[int]
    hashes: list[bytes]


class Tier:
    """An index of the worker's tier, kept by what the worker says."""

    def __init__(self, tickets: Tickets, stored: Sequence[bytes], send: Callable[[TransferInput], None]) -> None:
        self._tickets, self._send = tickets, send
        self._held = set(stored)
        self._stores: dict[int, Storing] = {}
        self._calls = itertools.count(1)
        self._fetches: set[int] = set()

    @property
    def is_fetching(self) -> bool:
        """True while anything is on its way from the tier."""
        return bool(self._fetches)

    def match(self, hashes: list[bytes], start: int, number: int, spare: int) -> bool:
        """Begin arrival `number` with what the tier has of `hashes` from `start` (not cached) on; False if nothing."""
        end = start
        while end < len(hashes) and hashes[end] in self._held:
            end += 1
        if end == start or (arrival := self._tickets.begin_arrival(number, hashes[:end], spare=spare)) is None:
            return False
        first, blocks = arrival
        self._fetches.add(number)
        self._send(Fetch(call=number, blocks=np.array(blocks, dtype=np.int32), hashes=hashes[first:end]))
        return True

    def fetched(self, answer: Fetched) -> None:
        """A copy out of the tier ended."""
        if answer.call in self._fetches:
            self._fetches.remove(answer.call)
            self._tickets.end_arrival(answer.call, answer.num_good)
            self._tickets.close_arrival(answer.call)

    def store(self, hashes: Sequence[bytes]) -> None:
        """A request with this prompt ended: copy what the tier does not have."""
        if len(self._stores) >= MAX_STORES:
            return
        start = next((index for index, name in enumerate(hashes) if name not in self._held), len(hashes))
        blocks = self._tickets.lend(hashes[start:])
        if not blocks:
            return
        call, names = next(self._calls), list(hashes[start : start + len(blocks)])
        self._stores[call] = Storing(blocks=blocks, hashes=names)
        self._held.update(names)  # on the way there: not again
        self._send(Store(call=call, blocks=np.array(blocks, dtype=np.int32), hashes=names))

    def stored(self, answer: Stored) -> None:
        """A copy into the tier ended."""
        if (storing := self._stores.pop(answer.call, None)) is None:
            return
        self._tickets.return_lent(storing.blocks)
        self._held.difference_update(set(storing.hashes).difference(answer.stored), answer.dropped)
