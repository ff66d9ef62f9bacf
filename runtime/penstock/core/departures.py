"""Rows and blocks on their way back: nothing returns while a step that may name it is in flight."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from penstock.core.kv.kv_cache import KVCache
from penstock.core.request_table import RequestTable


class Leaving(NamedTuple):
    """A row and blocks whose request is gone."""

    after_step: int  # the newest step in flight when it left
    row: int
    blocks: list[int]


class Departures:
    """The one place where rows and blocks become free again."""

    def __init__(self, kv: KVCache, table: RequestTable) -> None:
        self._kv = kv
        self._table = table
        self._leaving: deque[Leaving] = deque()
        self._freed_rows: list[int] = []

    def __bool__(self) -> bool:
        """True while something has left and not come back yet."""
        return bool(self._leaving)

    def leave(self, row: int, newest_step: int) -> None:
        """Retire a row; it and its blocks come back once `newest_step` has been applied."""
        self._table.retire(row)
        self._leaving.append(Leaving(newest_step, row, self._kv.take(row)))

    def give_back(self, applied_step: int) -> None:
        """Return what left when `applied_step` or an earlier one was the newest in flight."""
        while self._leaving and self._leaving[0].after_step <= applied_step:
            leaving = self._leaving.popleft()
            self._kv.pool.release(leaving.blocks)
            self._table.recycle(leaving.row)
            self._freed_rows.append(leaving.row)

    def take_freed_rows(self) -> list[int]:
        """Rows that came back since the last call, for the workers to forget."""
        freed, self._freed_rows = self._freed_rows, []
        return freed
