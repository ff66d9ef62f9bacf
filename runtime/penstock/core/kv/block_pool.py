"""Which KV blocks are held, which are free, and which free ones still hold something worth finding again.

```
   allocate (head)                                        release
  ┌──────────────────────────────────────────────────────────────┐
  ▼                                                              │
 [no hash] [no hash] [oldest cached] … [newest cached]   held by owners or tickets
  free list, evicted from the left                       not in the list
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

DUMMY_BLOCK = 0  # padding reads and writes here; never given to a request


class BlockPool:
    """Gives out block ids in O(1) each, least recently used first; a freed block keeps its hash until it is reused.

    A block is held exactly while it has owners (requests) or tickets (readers and writers outside stream order).
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks - 1
        self._end = num_blocks  # sentinel of the circular list
        self._next = [*range(1, num_blocks + 1), 1 if num_blocks > 1 else num_blocks]
        self._prev = [num_blocks, num_blocks, *range(1, num_blocks)]
        self._owners = [0] * num_blocks
        self._tickets: dict[int, int] = {}
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._cached: dict[bytes, int] = {}

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one owner each, or None if fewer are free; what they cached is forgotten."""
        if count > self.num_free:
            return None
        following, taken, block = self._next, [], self._next[self._end]
        for _ in range(count):
            taken.append(block)
            if (old := self._hash_of[block]) is not None:
                del self._cached[old]
                self._hash_of[block] = None
            self._owners[block] = 1
            block = following[block]
        following[self._end], self._prev[block] = block, self._end
        self.num_free -= count
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """Add one owner to each block; free ones leave the free list."""
        for block in blocks:
            if not self._is_held(block):
                self._unlink(block)
            self._owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Take one owner from each block, the last block first, so that the end of a sequence is evicted first."""
        for block in reversed(blocks):
            assert self._owners[block] > 0, f"block {block} has no owner"
            self._owners[block] -= 1
            if not self._is_held(block):
                self._link(block)

    def take_tickets(self, blocks: Iterable[int]) -> None:
        """Keep blocks from being reused while something outside stream order reads or writes them."""
        for block in blocks:
            if not self._is_held(block):
                self._unlink(block)
            self._tickets[block] = self._tickets.get(block, 0) + 1

    def return_tickets(self, blocks: Sequence[int]) -> None:
        """Give back what `take_tickets` took."""
        for block in reversed(blocks):
            if self._tickets[block] == 1:
                del self._tickets[block]
                if not self._is_held(block):
                    self._link(block)
            else:
                self._tickets[block] -= 1

    def remember(self, block: int, block_hash: bytes) -> None:
        """Make a held, fully computed block findable; an older block of this hash stays the one found."""
        if self._hash_of[block] is None and block_hash not in self._cached:
            self._hash_of[block] = block_hash
            self._cached[block_hash] = block

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """Blocks of the longest cached beginning of the chain `hashes`."""
        cached, found = self._cached, []
        for block_hash in hashes:
            if (block := cached.get(block_hash)) is None:
                break
            found.append(block)
        return found

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these are in the free list now (holding them makes them unavailable to others)."""
        return sum(not self._is_held(block) for block in blocks)

    @property
    def usage(self) -> float:
        """Share of blocks that are held, 0 to 1."""
        return 1 - self.num_free / max(1, self.num_blocks - 1)

    def check_integrity(self) -> str | None:
        """A sentence about the first broken invariant, or None: each block is either free or held, never both."""
        free, block = set(), self._next[self._end]
        while block != self._end:
            if block in free or self._prev[self._next[block]] != block:
                return f"the free list is broken at block {block}"
            free.add(block)
            block = self._next[block]
        if len(free) != self.num_free:
            return f"{len(free)} blocks in the free list, {self.num_free} counted"
        for block in range(1, self.num_blocks):
            if self._is_held(block) == (block in free):
                state = "both free and held" if block in free else "neither free nor held"
                return f"block {block} is {state} (owners {self._owners[block]}, tickets {self._tickets.get(block, 0)})"
        for block_hash, block in self._cached.items():
            if self._hash_of[block] != block_hash:
                return f"block {block} is cached under a hash that is not its own"
        return None

    def _is_held(self, block: int) -> bool:
        return self._owners[block] > 0 or block in self._tickets

    def _unlink(self, block: int) -> None:
        before, after = self._prev[block], self._next[block]
        self._next[before], self._prev[after] = after, before
        self.num_free -= 1

    def _link(self, block: int) -> None:
        """Back into the free list: at its end if the block can still be found, else at the front."""
        if self._hash_of[block] is not None:
            before, after = self._prev[self._end], self._end
        else:
            before, after = self._end, self._next[self._end]
        self._next[before] = self._prev[after] = block
        self._prev[block], self._next[block] = before, after
        self.num_free += 1
