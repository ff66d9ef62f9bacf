"""Block tables of the running rows over one pool, and the prefix cache in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.core.kv.block_pool import BlockPool
from penstock.core.kv.groups import KVGroup
from penstock.core.plan import Ints, no_ints


class Appended(NamedTuple):
    """Blocks that rows got in this step, in the order in which they go to the tables."""

    rows: Ints  # [n]
    block_ids: Ints  # [n]


class KVCache:
    """Owns the block tables; every block that a row holds is in its table, and nothing else is."""

    def __init__(self, pool: BlockPool, group: KVGroup, max_num_seqs: int, max_model_len: int) -> None:
        self.pool = pool
        self.group = group
        max_blocks = -(-max_model_len // group.block_size)
        self.block_ids = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)
        self.num_blocks = np.zeros(max_num_seqs, dtype=np.int32)

    def match(self, hashes: Sequence[bytes], num_tokens: int) -> list[int]:
        """Cached blocks that a sequence of `num_tokens` can start from; its last token is always left to compute."""
        return self.pool.find(hashes[: (num_tokens - 1) // self.group.block_size])

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.group.block_size)

    def admit(self, row: int, hits: Sequence[int], num_tokens: int) -> Ints:
        """Give a new row its cached blocks plus fresh ones up to `num_tokens`; the caller saw that they are there."""
        self.pool.hold(hits)
        fresh = self.pool.allocate(self.blocks_for(num_tokens) - len(hits))
        assert fresh is not None, f"admitted row {row} without room: {self.pool.num_free} blocks free"
        blocks = np.array([*hits, *fresh], dtype=np.int32)
        self.block_ids[row, : len(blocks)] = blocks
        self.num_blocks[row] = len(blocks)
        return blocks

    def missing(self, rows: Ints, num_tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many more blocks each row needs to hold `num_tokens`. # [n]"""
        missing: Ints = np.maximum(self.group.blocks_for(num_tokens) - self.num_blocks[rows], 0)
        return missing

    def grow(self, rows: Ints, missing: NDArray[np.int32]) -> Appended | None:
        """Append `missing` blocks to each row's table, or change nothing and return None if too few are free."""
        short = missing.nonzero()[0]
        if not short.size:
            return Appended(no_ints(), no_ints())
        counts, rows = missing[short], rows[short]
        total = int(counts.sum())
        taken = self.pool.allocate(total)
        if taken is None:
            return None
        ids = np.array(taken, dtype=np.int32)
        at: Ints = self.num_blocks[rows]
        if total > len(rows):  # some row gets several
            first = np.repeat(np.cumsum(counts, dtype=np.int32) - counts, counts)
            at = (np.repeat(at, counts) + np.arange(total) - first).astype(np.int32)
            repeated = np.repeat(rows, counts)
        else:
            repeated = rows
        self.block_ids[repeated, at] = ids
        self.num_blocks[rows] += counts
        return Appended(repeated, ids)

    def remember(self, row: int, hashes: Sequence[bytes], start: int, end: int) -> None:
        """Make blocks `start … end - 1` of a row findable under their hashes; their tokens must all be computed."""
        for block, block_hash in zip(self.block_ids[row, start:end].tolist(), hashes[start:end], strict=True):
            self.pool.remember(block, block_hash)

    def take(self, row: int) -> list[int]:
        """Empty a row's table and return its blocks, which the caller must release."""
        blocks: list[int] = self.block_ids[row, : self.num_blocks[row]].tolist()
        self.num_blocks[row] = 0
        return blocks
