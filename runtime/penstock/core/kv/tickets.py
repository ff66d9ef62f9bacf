"""Blocks that something outside the steps reads or writes: KV that arrives from elsewhere, and KV that a peer pulls.

A ticket keeps a block from being reused, as an owner does, but belongs to no request: it may outlive the request that
led to it, and no step in flight ever names the block on its account.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from penstock.core.kv.block_pool import BlockPool


@dataclass(slots=True, kw_only=True)
class Arrival:
    """Blocks that are being filled, and what they will be called."""

    cached: list[int]  # the beginning of the chain, which is here already and must stay
    blocks: list[int]  # what follows it, in order …
    hashes: list[bytes]  # … and their names
    is_open: bool = True  # requests that need these blocks wait for them


class Tickets:
    """Takes and returns tickets. What it is told, and when, is an input of the scheduler like any other."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._arrivals: dict[int, Arrival] = {}
        self._arriving: dict[bytes, int] = {}  # hash -> the arrival that brings it
        self._num_lent = 0

    @property
    def num_blocks(self) -> int:
        """Tickets that are out."""
        return self._num_lent + sum(len(each.cached) + len(each.blocks) for each in self._arrivals.values())

    @property
    def has_arrivals(self) -> bool:
        """True while any block is on its way."""
        return bool(self._arriving)

    def is_arriving(self, block_hash: bytes) -> bool:
        """True if a block of that name is on its way: whoever needs it should wait."""
        return block_hash in self._arriving

    def begin_arrival(self, number: int, hashes: Sequence[bytes], *, spare: int) -> tuple[int, list[int]] | None:
        """Blocks to fill with the end of the chain `hashes`, from the first one on after which nothing is cached or
        arriving already; returns that one's index and the blocks.

        None if nothing is missing, or if fewer than `spare` blocks would stay free.
        """
        pool = self._pool
        cached = pool.find(hashes)
        start = len(cached)
        for index in range(start, len(hashes)):
            start = index + 1 if hashes[index] in self._arriving else start
        missing = list(hashes[start:])
        if not missing or len(missing) + pool.count_free(cached) + spare > pool.num_free:
            return None
        pool.take_tickets(cached)
        blocks = pool.allocate(len(missing))
        assert blocks is not None, f"{len(missing)} blocks were free and are not: {pool.num_free}"
        pool.take_tickets(blocks)
        pool.release(blocks)
        self._arrivals[number] = Arrival(cached=cached, blocks=blocks, hashes=missing)
        self._arriving |= dict.fromkeys(missing, number)
        return start, blocks

    def end_arrival(self, number: int, num_good: int, busy: Collection[int] = ()) -> None:
        """The first `num_good` blocks hold what their names say and can be found from now on; nobody waits any more.

        `busy` are blocks that may still be written to: they stay out of reach until `close_arrival`.
        """
        arrival, pool = self._arrivals[number], self._pool
        assert arrival.is_open, f"arrival {number} has ended already"
        arrival.is_open = False
        for block_hash in arrival.hashes:
            del self._arriving[block_hash]
        for block, block_hash in zip(arrival.blocks[:num_good], arrival.hashes[:num_good], strict=True):
            assert block not in busy, f"block {block} counts while it is written to"
            pool.remember(block, block_hash)
        pool.return_tickets([*arrival.cached, *(block for block in arrival.blocks if block not in busy)])
        arrival.cached, arrival.blocks = [], [block for block in arrival.blocks if block in busy]
        if not arrival.blocks:
            del self._arrivals[number]

    def close_arrival(self, number: int) -> None:
        """Nothing is written for this arrival any more; what `end_arrival` kept comes back."""
        if (arrival := self._arrivals.pop(number, None)) is not None:
            assert not arrival.is_open, f"arrival {number} is closed before its end"
            self._pool.return_tickets(arrival.blocks)

    def lend(self, hashes: Sequence[bytes]) -> list[int]:
        """Tickets on the longest cached beginning of `hashes`, for somebody who reads; returns the blocks."""
        blocks = self._pool.find(hashes)
        self._pool.take_tickets(blocks)
        self._num_lent += len(blocks)
        return blocks

    def return_lent(self, blocks: Sequence[int]) -> None:
        """Give back what `lend` gave."""
        self._pool.return_tickets(blocks)
        self._num_lent -= len(blocks)
