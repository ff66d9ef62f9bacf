"""How many requests the workers of a router have at each pod and for each tenant, in memory that they share.

Names are kept as hashes: two that fall together are counted together, which only makes the router more careful.
"""

from __future__ import annotations

import mmap
from hashlib import blake2b
from pathlib import Path

NUM_SLOTS = 8192
ITEM_BYTES = 8
FILE = "ledger"


class Ledger:
    """A row of counters for each worker; each worker changes only its own, which is empty at its start."""

    def __init__(self, folder: Path | None = None, *, worker: int = 0, num_workers: int = 1) -> None:
        self._num_workers = num_workers
        size = num_workers * NUM_SLOTS * ITEM_BYTES
        if folder is None:
            self._memory = mmap.mmap(-1, size)
        else:
            with open(folder / FILE, "a+b") as file:
                file.truncate(size)
                self._memory = mmap.mmap(file.fileno(), size)
        self._counts = memoryview(self._memory).cast("q")
        self._start = worker * NUM_SLOTS
        self._counts[self._start : self._start + NUM_SLOTS] = memoryview(bytes(NUM_SLOTS * ITEM_BYTES)).cast("q")
        self._slots: dict[str, int] = {}

    def add(self, name: str, change: int) -> None:
        """Count for this worker."""
        self._counts[self._start + self._slot(name)] += change

    def count(self, name: str) -> int:
        """The sum over all workers."""
        slot = self._slot(name)
        return sum(self._counts[worker * NUM_SLOTS + slot] for worker in range(self._num_workers))

    def _slot(self, name: str) -> int:
        slot = self._slots.get(name)
        if slot is None:
            if len(self._slots) >= NUM_SLOTS:
                self._slots.clear()  # addresses come and go
            digest = blake2b(name.encode(), digest_size=8).digest()
            slot = self._slots[name] = int.from_bytes(digest, "little") % NUM_SLOTS
        return slot
