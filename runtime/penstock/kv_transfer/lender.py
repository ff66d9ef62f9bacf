"""The prefill side: which blocks are held for which peer, and what each peer is to be told of them.

```
blocks of the prompt:  0 …… skip ……… cursor ……… end
                       │ theirs │ lent   │ not computed yet
```
Pure: it takes and returns tickets and writes lease words, and gets the time from its caller. No word ever says that a
lease is good after the first of its tickets was given back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from penstock.core.kv.tickets import Tickets
from penstock.core.request import RequestKey
from penstock.internal.protocol import Announcement, Computed, Ended, Granted


class Leases(Protocol):
    """What is needed of the `LeaseTable`."""

    def grant(self, now: float) -> tuple[int, int] | None:
        """A new lease as (row, epoch), or None."""

    def renewed_at(self, row: int) -> float:
        """When its holder was last heard of."""

    def end(self, row: int) -> None:
        """The lease is not good any more."""


class News(NamedTuple):
    """What the peer behind a call is to be told; None: the lease is over, nothing will follow."""

    key: RequestKey
    announcement: Announcement | None


@dataclass(slots=True, kw_only=True)
class Loan:
    """One prefill call."""

    key: RequestKey
    hashes: list[bytes]  # of the prompt's blocks
    cursor: int  # the first block that is not lent yet
    blocks: list[int] = field(default_factory=list)  # lent
    row: int | None = None  # of the lease table
    epoch: int = 0
    is_complete: bool = False  # the peer was told that nothing more will come


class Lender:
    """Holds computed blocks for peers. A lease begins with the first block that is there."""

    def __init__(self, leases: Leases, tickets: Tickets, lease_seconds: float) -> None:
        self._leases, self._tickets, self._seconds = leases, tickets, lease_seconds
        self._loans: dict[RequestKey, Loan] = {}  # in the order of the calls

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._loans

    @property
    def num_leases(self) -> int:
        """Leases that are held."""
        return sum(loan.row is not None for loan in self._loans.values())

    def begin(self, key: RequestKey, hashes: list[bytes], skip: int) -> None:
        """Hold the blocks of a new request from number `skip` on, as soon as they are there."""
        self._loans[key] = Loan(key=key, hashes=hashes, cursor=min(skip, len(hashes)))

    def advance(self, now: float) -> list[News]:
        """After blocks became findable: take hold of those that somebody waits for."""
        news: list[News] = []
        for loan in list(self._loans.values()):
            if not loan.is_complete:
                news += self._extend(loan, now)
        return news

    def finished(self, keys: Collection[RequestKey]) -> list[News]:
        """These requests ended by themselves after the `advance` of their step: what is missing never comes."""
        loans = [self._loans[key] for key in keys if key in self._loans]
        return [news for loan in loans if not loan.is_complete for news in self._give_up(loan, "not all was computed")]

    def closed(self, keys: Collection[RequestKey]) -> None:
        """The calls ended: nobody listens any more."""
        for key in keys:
            if key in self._loans:
                self._end(self._loans[key])

    def closed_client(self, client: int) -> None:
        """All calls through that front-end ended."""
        self.closed([key for key in self._loans if key.client == client])

    def returned(self, row: int, epoch: int) -> list[News]:
        """The peer has what it wanted. A lease that is gone, or another one, is ignored."""
        for loan in self._loans.values():
            if (loan.row, loan.epoch) == (row, epoch):
                self._end(loan)
                return [News(loan.key, None)]
        return []

    def expire(self, now: float) -> list[News]:
        """End the leases of peers that were not heard of for too long."""
        news: list[News] = []
        for loan in list(self._loans.values()):
            if loan.row is not None and now - self._leases.renewed_at(loan.row) > self._seconds:
                news += self._give_up(loan, "the lease was not renewed")
        return news

    def give_way(self) -> list[News]:
        """No request can go on for want of blocks: end the newest lease of a call that needs more of them.

        Nothing is done while leases of complete calls are out: those blocks come back by themselves.
        """
        held = [loan for loan in self._loans.values() if loan.row is not None]
        if not held or any(loan.is_complete for loan in held):
            return []
        return self._give_up(held[-1], "out of blocks")

    def _extend(self, loan: Loan, now: float) -> list[News]:
        news: list[News] = []
        blocks = self._tickets.lend(loan.hashes[loan.cursor :])
        loan.blocks += blocks
        if blocks and loan.row is None:
            if (lease := self._leases.grant(now)) is None:
                return self._give_up(loan, "too many leases")
            loan.row, loan.epoch = lease
            news.append(News(loan.key, Granted(lease=loan.row, epoch=loan.epoch, seconds=self._seconds)))
        if blocks:
            news.append(News(loan.key, Computed(start=loan.cursor, blocks=blocks, checksums=[])))
            loan.cursor += len(blocks)
        if loan.cursor == len(loan.hashes):
            loan.is_complete = True
            news.append(News(loan.key, Ended()))
        return news

    def _give_up(self, loan: Loan, why: str) -> list[News]:
        self._end(loan)
        ended = [] if loan.is_complete else [News(loan.key, Ended(why=why))]
        return [*ended, News(loan.key, None)]

    def _end(self, loan: Loan) -> None:
        """First the word, then the blocks: whoever READs the epoch after the blocks knows that they were good."""
        del self._loans[loan.key]
        if loan.row is not None:
            self._leases.end(loan.row)
        self._tickets.return_lent(loan.blocks)
