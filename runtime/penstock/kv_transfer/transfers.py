"""The connector of a pod that shares KV: leases for peers, fetches from peers, and the offload tier, over one link."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np

from penstock.core.kv.block_hash import hash_blocks
from penstock.core.request import Request, RequestKey
from penstock.core.scheduler import Scheduler
from penstock.kv_transfer.connector import TransferCounts
from penstock.kv_transfer.fetching import Fetching, Prompt
from penstock.kv_transfer.lender import Lender, News
from penstock.kv_transfer.messages import Fetched, LeaseReturned, Stored
from penstock.kv_transfer.puller import CloseArrival, EndArrival
from penstock.kv_transfer.switchboard import Happened, Order
from penstock.kv_transfer.tier import Tier


class StepSide(Protocol):
    """What is needed of the `Link`."""

    @property
    def has_news(self) -> bool:
        """True if `take` has something to give."""

    @property
    def num_pulled_bytes(self) -> int:
        """By all transfers that ended well."""

    def take(self) -> list[Happened]:
        """What happened since."""

    def fetch(self, order: Order) -> None:
        """Fill an arrival from a peer."""

    def cancel(self, number: int) -> None:
        """Nobody wants that arrival any more."""

    def announce(self, news: Sequence[News]) -> None:
        """Tell peers."""

    def forget_client(self, client: int) -> None:
        """A front-end has died."""


class Transfers:
    """A `KVConnector`. Each part may be missing."""

    def __init__(
        self,
        scheduler: Scheduler,
        link: StepSide,
        clock: Callable[[], float],
        *,
        lender: Lender | None = None,
        fetching: Fetching | None = None,
        tier: Tier | None = None,
    ) -> None:
        self._scheduler, self._link, self._clock = scheduler, link, clock
        self._lender, self._fetching, self._tier = lender, fetching, tier
        self._size = scheduler.kv.group.block_size
        self._numbers = itertools.count(1)
        self._counts = TransferCounts()
        self._prompts: dict[RequestKey, list[bytes]] = {}  # block hashes, for the tier

    @property
    def has_news(self) -> bool:
        """See `KVConnector`."""
        return self._link.has_news

    @property
    def has_leases(self) -> bool:
        """See `KVConnector`."""
        return self._lender is not None and self._lender.num_leases > 0

    @property
    def counts(self) -> TransferCounts:
        """See `KVConnector`."""
        counts = self._counts
        counts.num_pulled_bytes = self._link.num_pulled_bytes
        counts.num_leases = 0 if self._lender is None else self._lender.num_leases
        counts.num_arriving_tokens = 0 if self._fetching is None else self._fetching.num_arriving_tokens
        return counts

    def match(self, request: Request, output_ids: bytes, lend_from: int | None) -> None:
        """See `KVConnector`."""
        now = self._clock()
        prompt = self._prompt(request, output_ids)
        if self._tier is not None and request.is_cache_read_allowed:
            start = len(self._scheduler.kv.pool.find(prompt.hashes))
            self._tier.match(prompt.hashes, start, next(self._numbers), self._scheduler.num_reserved + 2)
            self._prompts[request.key] = split_hashes(request)
        if self._fetching is not None and (order := self._fetching.match(prompt, next(self._numbers), now)):
            self._link.fetch(order)
        if self._lender is not None and lend_from is not None:
            self._lender.begin(request.key, split_hashes(request), lend_from)
            self._tell(self._lender.advance(now))

    def num_cached(self, key: RequestKey, num_found: int) -> int:
        """See `KVConnector`."""
        return num_found if self._fetching is None else self._fetching.num_cached(key, num_found)

    def plan(self, *, is_stuck: bool) -> None:
        """See `KVConnector`."""
        for happened in self._link.take() if self._link.has_news else ():
            self._take_in(happened)
        if self._fetching is not None:
            for order in self._fetching.reconsider(self._numbers, self._clock()):
                self._link.fetch(order)
        if self._lender is not None:
            self._tell(self._lender.expire(self._clock()))
            if is_stuck and not (self._tier is not None and self._tier.is_fetching):
                self._tell(self._lender.give_way())

    def computed(self, ended: Collection[RequestKey]) -> None:
        """See `KVConnector`."""
        if self._lender is not None:
            self._tell(self._lender.advance(self._clock()))
            self._tell(self._lender.finished(ended))
        if self._tier is not None:
            for key in ended:
                if hashes := self._prompts.pop(key, None):
                    self._tier.store(hashes)
        if self._fetching is not None:
            self._cancel(ended)

    def finished(self, keys: Collection[RequestKey]) -> None:
        """See `KVConnector`."""
        if self._lender is not None:
            self._lender.closed(keys)
        for key in keys:
            self._prompts.pop(key, None)
        if self._fetching is not None:
            self._cancel(keys)

    def finished_client(self, client: int) -> None:
        """See `KVConnector`."""
        if self._lender is not None:
            self._lender.closed_client(client)
        for key in [key for key in self._prompts if key.client == client]:
            del self._prompts[key]
        if self._fetching is not None:
            self._cancel(self._fetching.keys_of(client))
        self._link.forget_client(client)

    def _take_in(self, happened: Happened) -> None:
        tickets, what = self._scheduler.tickets, happened.what
        match what:
            case EndArrival():
                tickets.end_arrival(what.number, what.num_good, what.busy)
                if self._fetching is not None:
                    self._fetching.ended(what, happened.at, self._counts)
            case CloseArrival(number=number):
                tickets.close_arrival(number)
            case LeaseReturned(lease=lease, epoch=epoch) if self._lender is not None:
                self._tell(self._lender.returned(lease, epoch))
            case Fetched() if self._tier is not None:
                self._tier.fetched(what)
                if self._lender is not None:
                    self._tell(self._lender.advance(happened.at))
            case Stored() if self._tier is not None:
                self._tier.stored(what)

    def _tell(self, news: list[News]) -> None:
        """Pass news on; a request that nobody waits for any more is not computed any further."""
        if news:
            self._link.announce(news)
            self._scheduler.abort([each.key for each in news if each.announcement is None])

    def _cancel(self, keys: Collection[RequestKey]) -> None:
        assert self._fetching is not None, "nothing is fetched here"
        self._fetching.forget(keys)
        for key in keys:
            if (number := self._fetching.number_of(key)) is not None:
                self._link.cancel(number)

    def _prompt(self, request: Request, output_ids: bytes) -> Prompt:
        """Its blocks before the last token, which is always left to compute."""
        known = np.frombuffer(request.prompt_ids + output_ids, dtype="<i4")
        hashes, count = split_hashes(request), (len(known) - 1) // self._size
        if count > len(hashes):
            parent = hashes[-1] if hashes else request.root_hash
            hashes += hash_blocks(parent, known[len(hashes) * self._size : count * self._size], self._size)
        return Prompt(request=request, known=known, hashes=hashes[:count])


def split_hashes(request: Request) -> list[bytes]:
    """The names of the whole blocks of its prompt."""
    return [request.block_hashes[at : at + 16] for at in range(0, len(request.block_hashes), 16)]
