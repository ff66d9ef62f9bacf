"""The words that say which leases are good, in memory that three processes share.

```
row:  epoch u64 │ renewed f64 (seconds, CLOCK_MONOTONIC)
```
The engine core writes epochs; front-ends write renewals, so that no heartbeat waits for a step; the worker registers
the memory with NIXL, so that a peer READs an epoch itself. A lease is good exactly while its row holds its epoch. The
engine core clears the row *before* it lets the blocks go, so whoever still finds the epoch after a READ knows that the
READ was done in time, whatever else has stopped or died.
"""

from __future__ import annotations

import mmap
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROW = np.dtype([("epoch", "<u8"), ("renewed", "<f8")])
FILE = "leases"  # its name in the run folder
NUM_LEASES = 4096
FREE = 0  # epoch of a row without a lease


class LeaseTable:
    """One file in the run folder, mapped by everyone who opens it."""

    def __init__(self, file: Path, *, is_new: bool = False) -> None:
        """`is_new`: make it, all rows free; only the engine core does, before its workers start."""
        if is_new:
            file.unlink(missing_ok=True)  # who has mapped the old one keeps it, and is not cut off
            file.write_bytes(bytes(NUM_LEASES * ROW.itemsize))
        with file.open("r+b") as handle:
            self._memory = mmap.mmap(handle.fileno(), NUM_LEASES * ROW.itemsize)
        self.rows: NDArray[np.void] = np.frombuffer(self._memory, dtype=ROW)  # [NUM_LEASES]
        self._epochs, self._renewed = self.rows["epoch"], self.rows["renewed"]

    @property
    def address(self) -> int:
        """Of row 0 in this process."""
        return int(self.rows.ctypes.data)

    @property
    def num_held(self) -> int:
        """Leases that are good."""
        return int(np.count_nonzero(self._epochs))

    def grant(self, now: float) -> tuple[int, int] | None:
        """A new lease as (row, epoch), or None if there are too many. Epochs are random: nobody guesses one."""
        free = (self._epochs == FREE).nonzero()[0]
        if not free.size:
            return None
        row, epoch = int(free[0]), secrets.randbits(63) + 1
        self._renewed[row] = now
        self._epochs[row] = epoch
        return row, epoch

    def is_good(self, row: int, epoch: int) -> bool:
        """True while that lease is held."""
        return 0 <= row < NUM_LEASES and epoch != FREE and int(self._epochs[row]) == epoch

    def renew(self, row: int, epoch: int, now: float) -> bool:
        """Note that its holder lives; False for a lease that is gone."""
        if not self.is_good(row, epoch):
            return False
        self._renewed[row] = now
        return True

    def renewed_at(self, row: int) -> float:
        """When its holder was last heard of."""
        return float(self._renewed[row])

    def end(self, row: int) -> None:
        """The lease is not good any more; only then may its blocks be given to others."""
        self._epochs[row] = FREE
