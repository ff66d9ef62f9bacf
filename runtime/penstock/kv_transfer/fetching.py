"""Remote prefill, as the step loop of a decode pod sees it: which prompts are fetched, and what became of them."""

from __future__ import annotations

import enum
import itertools
import logging
from collections.abc import Callable, Collection, Iterator
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

MOST_DECISIONS, MOST_LOOKED = 8, 64  # about prompts that wait, and at them, in one step

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


class Later(enum.Enum):
    """Why a prompt that could be fetched is not, for now."""

    NO_ROOM = "there are too few blocks for what would come"
    NOT_NOW = "no peer is worth it"


NO_ROOM, NOT_NOW = Later.NO_ROOM, Later.NOT_NOW


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
        self._postponed: dict[RequestKey, Prompt] = {}  # may still be fetched, as long as they wait

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
            self._postponed.pop(key, None)

    def keys_of(self, client: int) -> list[RequestKey]:
        """The requests of a front-end that something is fetched for, or may be."""
        known = self._cached.keys() | self._numbers.keys() | self._postponed.keys()
        return [key for key in known if key.client == client]

    def match(self, prompt: Prompt, number: int, now: float) -> Order | None:
        """What to fetch for a new prompt as arrival `number`, if anything; those that wait come first."""
        request = prompt.request
        if not (request.is_cache_read_allowed and request.is_remote_prefill_allowed):
            return None
        if self._postponed:  # they come first: it is decided with them, before the next step
            self._postponed[request.key] = prompt
            return None
        found = self._decide(prompt, self._num_queued(), number, now)
        if isinstance(found, Order):
            return found
        if found is not None:
            self._postponed[request.key] = prompt
        return None

    def reconsider(self, numbers: Iterator[int], now: float) -> Iterator[Order]:
        """What to fetch for prompts that wait: there was no room for their blocks, or it was not worth it.

        In the order in which they will run, so that nobody's room goes to one behind it.
        """
        if not self._postponed:
            return
        waiting, num_decisions = self._scheduler.waiting, 0
        num_queued = num_tokens_left(self._scheduler) - waiting.num_tokens
        for entry in itertools.islice(waiting, MOST_LOOKED):
            key = entry.request.key
            if (prompt := self._postponed.get(key)) is not None:
                if num_decisions == MOST_DECISIONS:
                    return
                num_decisions += 1
                found = self._decide(prompt, num_queued, next(numbers), now)
                if found is NO_ROOM:
                    return
                if found is not NOT_NOW:
                    del self._postponed[key]
                if isinstance(found, Order):
                    yield found
            if key not in self._numbers:
                num_queued += len(entry.known)

    def _decide(self, prompt: Prompt, num_queued: int, number: int, now: float) -> Order | Later | None:
        """The fetch of a prompt with so many tokens to compute before it here; None if it never will be worth one."""
        request, hashes, size = prompt.request, prompt.hashes, self._kind.block_size
        start = self._num_present(hashes)
        if start == len(hashes) or self._scheduler.prefixes.is_computing(hashes[start]):
            return None
        need = Need(
            num_tokens=len(prompt.known) - start * size,
            num_bytes=(len(hashes) - start) * self._kind.block_bytes,
            num_queued=num_queued,
            num_running=len(self._scheduler.running),
            rate=self._rate(),
        )
        choice = self._choose(request.prefiller, need, len(hashes) * size, now)
        if choice.why == "short":
            return None
        if choice.peer is None:
            return NOT_NOW
        arrival = self._scheduler.tickets.begin_arrival(number, hashes, spare=self._spare())
        if arrival is None:
            return NO_ROOM
        return self._order(prompt, number, choice, *arrival)

    def _order(self, prompt: Prompt, number: int, choice: Choice, start: int, blocks: list[int]) -> Order:
        """Note the fetch of everything from block `start` on into `blocks`."""
        assert choice.peer is not None, "nobody was chosen"
        request, size = prompt.request, self._kind.block_size
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
                token_ids=prompt.known[: len(prompt.hashes) * size].astype("<i4").tobytes(),
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
        if not tickets.has_arrivals:  # so that who waits costs little: this is asked before every step
            return start
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
