"""Renewals from peers, written where the engine core sees them, so that no heartbeat waits for a step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from penstock.kv_transfer.lease_table import FILE, LeaseTable


class Leases:
    """The lease table of the engine's present life, mapped when it is first needed."""

    def __init__(self, run_path: Path | None) -> None:
        self._file = None if run_path is None else run_path / FILE
        self._epoch = 0
        self._table: LeaseTable | None = None

    def renew(self, leases: Iterable[tuple[int, int]], *, epoch: int, now: float) -> int:
        """Note that the holders of these (row, epoch) live; returns for how many leases that meant anything.

        `epoch` is the engine's: each of its lives has a table of its own.
        """
        if self._table is None or epoch != self._epoch:
            if self._file is None or not self._file.exists():
                return 0
            self._epoch, self._table = epoch, LeaseTable(self._file)
        return sum(self._table.renew(row, lease, now) for row, lease in leases)
