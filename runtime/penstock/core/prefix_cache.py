"""Finding prompt beginnings that were computed before, or are being computed right now by another row."""

from __future__ import annotations

from penstock.core.kv.block_hash import hash_blocks
from penstock.core.kv.kv_cache import KVCache
from penstock.core.kv.tickets import Tickets
from penstock.core.plan import Ints
from penstock.core.request import Request
from penstock.core.request_table import Resident
from penstock.core.waiting import Waiting


class PrefixCache:
    """Names blocks by the tokens in them and before them; switched off, it finds and remembers nothing."""

    def __init__(self, kv: KVCache, tickets: Tickets, *, is_on: bool) -> None:
        self._kv, self._tickets = kv, tickets
        self._is_on = is_on
        self._computing: dict[bytes, int] = {}  # prompt blocks that a running row is going to compute: hash -> row

    def extend(self, hashes: list[bytes], request: Request, known: Ints) -> None:
        """Append the hashes of full blocks of `known` [n] that the chain does not have yet."""
        size = self._kv.group.block_size
        start, end = len(hashes), len(known) // size
        if self._is_on and end > start:
            parent = hashes[-1] if hashes else request.root_hash
            hashes += hash_blocks(parent, known[start * size : end * size], size)

    def find(self, entry: Waiting) -> list[int] | None:
        """Cached blocks to start from, or None to wait for more: a running row computes it, or it is on its way."""
        if not (self._is_on and entry.request.is_cache_read_allowed):
            return []
        hits = self._kv.match(entry.hashes, len(entry.known))
        following = entry.hashes[len(hits) : (len(entry.known) - 1) // self._kv.group.block_size]
        if following and (following[0] in self._computing or self._tickets.is_arriving(following[0])):
            return None
        return hits

    def is_computing(self, block_hash: bytes) -> bool:
        """True if a running row is going to compute a block of that name."""
        return block_hash in self._computing

    def announce(self, row: int, hashes: list[bytes]) -> None:
        """These blocks are going to be computed by `row`, unless somebody else is at it already."""
        if self._is_on:
            for block_hash in hashes:
                self._computing.setdefault(block_hash, row)

    def remember(self, row: int, resident: Resident, num_computed: int) -> None:
        """The first `num_computed` tokens of a row are computed: their full blocks can be found from now on."""
        size = self._kv.group.block_size
        start, end = resident.num_remembered, min(num_computed // size, len(resident.hashes))
        if self._is_on and end > start:
            self._kv.remember(row, resident.hashes, start, end)
            self._withdraw(row, resident.hashes[start:end])
            resident.num_remembered = end

    def leave(self, row: int, resident: Resident, known: Ints) -> None:
        """A row goes: what it generated can be found by the next turn. # known: [num_known], the newest not computed"""
        if len(known) > resident.num_admitted:  # it sampled, so all but the newest token is computed
            self.extend(resident.hashes, resident.request, known[:-1])
            self.remember(row, resident, len(known) - 1)
        self._withdraw(row, resident.hashes[resident.num_remembered :])

    def _withdraw(self, row: int, hashes: list[bytes]) -> None:
        for block_hash in hashes:
            if self._computing.get(block_hash) == row:
                del self._computing[block_hash]
