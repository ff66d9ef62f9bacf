"""Remote prefill, as the step loop of a decode pod sees it: which prompts are fetched, and what became of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from penstock.core.backlog import num_tokens_left
from penstock.core.plan import Ints
from penstock.core.request import Request, RequestKey
from penstock.core.scheduler import Scheduler
from penstock.internal.protocol import PrefillCall
from penstock.kv_transfer.connector import TransferCounts
from penstock.kv_transfer.decider import Candidate, Choice, Decider, Need
from penstock.kv_transfer.peer import PeerView
from penstock.kv_transfer.puller import EndArrival
from penstock.kv_transfer.switchboard import Order
from penstock.logs import event

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What blocks here are like."""

    block_size: int  # tokens
    block_bytes: int
    fingerprint: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request that is about to be queued, as connectors need it."""

    request: Request
    known: Ints  # [num_prompt + num_outputs so far]
    hashes: list[bytes]  # of the whole blocks before its last token


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFetch:
    """An arrival that has not ended."""

    key: RequestKey
    peer: int
    num_blocks: int
    predicted: float  # seconds; 0: not at all


class Known(Protocol):
    """What the link knows."""

    @property
    def views(self) -> tuple[PeerView, ...]:
        """The peers that can be asked."""

    def num_announced(self, number: int) -> int:
        """Blocks of an arrival that its peer has computed."""


class Fetching:
    """Decides for each prompt, and keeps count."""

    def __init__(
        self,
        scheduler: Scheduler,
        decider: Decider,
        kind: Kind,
        *,
        link: Known,
        rate: Callable[[], float],
    ) -> None:
        """`rate`: tokens/s that are computed here, 0 if not measured."""
        self._scheduler, self._decider, self._kind = scheduler, decider, kind
        self._link, self._rate = link, rate
        self._open: dict[int, OpenFetch] = {}
        self._numbers: dict[RequestKey, int] = {}
        self._fetched: dict[RequestKey, int] = {}  # blocks that came for a request that may still wait
        self._cached: dict[RequestKey, int] = {}  # prompt tokens that were here before anything was fetched

    @property
    def num_arriving_tokens(self) -> int:
        """Tokens that wait for a peer, not for us."""
        return sum(fetch.num_blocks for fetch in self._open.values()) * self._kind.block_size

    def number_of(self, key: RequestKey) -> int | None:
        """The arrival that was begun for a request, while it is open."""
        return self._numbers.get(key)

    def num_cached(self, key: RequestKey, num_found: int) -> int:
        """See `KVConnector`: clients pay for what a peer computed for them as for what we did."""
        return min(num_found, self._cached.pop(key, num_found))

    def forget(self, keys: Collection[RequestKey]) -> None:
        """These requests are over."""
        for key in keys:
            self._cached.pop(key, None)

    def keys_of(self, client: int) -> list[RequestKey]:
        """The requests of a front-end that something is fetched for."""
        return [key for key in self._cached.keys() | self._numbers.keys() if key.client == client]

    def match(self, prompt: Prompt, number: int, now: float) -> Order | None:
        """What to fetch for this prompt as arrival `number`, if anything."""
        request, hashes, size = prompt.request, prompt.hashes, self._kind.block_size
        if not (request.is_cache_read_allowed and request.is_remote_prefill_allowed):
            return None
        start = self._num_present(hashes)
        if start == len(hashes) or self._scheduler.prefixes.is_computing(hashes[start]):
            return None
        need = Need(
            num_tokens=len(prompt.known) - start * size,
            num_bytes=(len(hashes) - start) * self._kind.block_bytes,
            num_queued=self._num_queued(),
            num_running=len(self._scheduler.running),
            rate=self._rate(),
        )
        choice = self._choose(request.prefiller, need, len(hashes) * size, now)
        if choice.peer is None:
            return None
        arrival = self._scheduler.tickets.begin_arrival(number, hashes, spare=self._spare())
        if arrival is None:
            return None
        start, blocks = arrival
        fetch = OpenFetch(key=request.key, peer=choice.peer, num_blocks=len(blocks), predicted=choice.seconds)
        self._open[number] = fetch
        self._numbers[request.key] = number
        self._cached[request.key] = start * size
        return Order(
            number=number,
            key=request.key,
            peer=choice.peer,
            address="" if choice.peer else request.prefiller,
            call=PrefillCall(
                request_id=request.request_id,
                token_ids=prompt.known[: len(hashes) * size].astype("<i4").tobytes(),
                root_hash=request.root_hash,
                skip=start,
                fingerprint=self._kind.fingerprint,
                revision=self._kind.revision,
                priority=request.priority,
            ),
            blocks=blocks,
            predicted=choice.seconds,
        )

    def ended(self, end: EndArrival, at: float, counts: TransferCounts) -> None:
        """An arrival is over; `at`: since when."""
        fetch = self._open.pop(end.number)
        del self._numbers[fetch.key]
        self._fetched[fetch.key] = end.num_good
        if end.is_whole:
            counts.num_pulls += 1
            self._decider.succeeded(fetch.peer, fetch.predicted, at - end.began, at)
        elif end.why:
            counts.num_failed_pulls += 1
            counts.num_fallbacks += 1
            self._decider.failed(fetch.peer, at)
            event(_log, "transfer.failed", level=logging.WARNING, peer=fetch.peer, why=end.why)

    def _choose(self, name: str, need: Need, num_tokens: int, now: float) -> Choice:
        """The peer that was named (0: one that we do not know yet), or else the one that the decider takes."""
        views = [view for view in self._link.views if view.max_tokens >= num_tokens]
        if name:
            peer = next((view.peer for view in views if name in view.names), 0)
            return Choice(peer=peer, why="named")
        return self._decider.choose(need, [self._candidate(view) for view in views], now)

    def _candidate(self, view: PeerView) -> Candidate:
        blocks = [
            fetch.num_blocks - self._link.num_announced(number)
            for number, fetch in self._open.items()
            if fetch.peer == view.peer
        ]
        return Candidate(
            peer=view.peer,
            num_queued=view.num_queued,
            num_pending=sum(blocks) * self._kind.block_size,
            rate=view.rate,
            bytes_per_second=view.bytes_per_second,
        )

    def _num_present(self, hashes: list[bytes]) -> int:
        """Blocks from the first on that are cached or, whatever stands between them, arrive already."""
        tickets = self._scheduler.tickets
        start = len(self._scheduler.kv.pool.find(hashes))
        arriving = [index + 1 for index in range(start, len(hashes)) if tickets.is_arriving(hashes[index])]
        return max(arriving, default=start)

    def _num_queued(self) -> int:
        """Prompt tokens to compute here before anything new."""
        return max(0, num_tokens_left(self._scheduler) - self.num_arriving_tokens)

    def _spare(self) -> int:
        """Blocks that are needed soon: by running rows, by requests whose blocks came but that still wait, and for
        what this one computes here.
        """
        waiting = self._scheduler.waiting
        self._fetched = {key: count for key, count in self._fetched.items() if key in waiting}
        return self._scheduler.num_reserved + sum(self._fetched.values()) + 2
