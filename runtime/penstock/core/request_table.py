"""The running requests as columns of fixed length: one row each, from admission until it ends or is preempted.

```
token_ids[row]:  0 …………… num_prompt ……… num_known          max_total
                 │   prompt   │  outputs   │  not sampled yet │
                 0 ………… num_computed (KV exists, or will once the steps in flight are done) <= num_tokens
```
`num_tokens` is `num_known` plus the tokens that steps in flight will add: the device owns exact counts, the scheduler
owns upper bounds until results arrive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.request import Request
from penstock.core.waiting import Waiting

NO_TOKEN = -1


@dataclass(slots=True, kw_only=True, eq=False)
class Resident:
    """What a row knows that is touched only when something changes, so that it needs no column."""

    request: Request
    hashes: list[bytes]  # of all full blocks of the known tokens at admission
    num_remembered: int  # blocks already findable in the prefix cache
    num_admitted: int  # known tokens at admission


class RequestTable:
    """Columns of `max_num_seqs` rows; a recycled row has every field set anew by `take`."""

    def __init__(self, max_num_seqs: int, max_model_len: int) -> None:
        self.max_num_seqs = max_num_seqs
        self.token_ids = np.zeros((max_num_seqs, max_model_len), dtype=np.int32)
        self.num_prompt = np.zeros(max_num_seqs, dtype=np.int32)
        self.num_known = np.zeros(max_num_seqs, dtype=np.int32)
        self.num_tokens = np.zeros(max_num_seqs, dtype=np.int32)
        self.num_computed = np.zeros(max_num_seqs, dtype=np.int32)
        self.num_reusable = np.zeros(max_num_seqs, dtype=np.int32)  # tokens that were prefix hits: cheap to redo
        self.min_total = np.zeros(max_num_seqs, dtype=np.int32)  # no stop token ends the row before this length
        self.max_total = np.zeros(max_num_seqs, dtype=np.int32)
        self.priority = np.zeros(max_num_seqs, dtype=np.int32)
        self.sequence = np.zeros(max_num_seqs, dtype=np.int64)  # order in which requests were told to the engine
        self.client = np.zeros(max_num_seqs, dtype=np.int32)
        self.handle = np.zeros(max_num_seqs, dtype=np.int64)
        self.is_new = np.zeros(max_num_seqs, dtype=np.bool_)  # the client has had no token since it asked
        self.is_live = np.zeros(max_num_seqs, dtype=np.bool_)  # False: results of steps in flight are dropped
        self.stop_ids = np.full((max_num_seqs, 4), NO_TOKEN, dtype=np.int32)
        self.residents: list[Resident | None] = [None] * max_num_seqs
        self._free = list(range(max_num_seqs - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Rows that can be taken now."""
        return len(self._free)

    def take(self, resident: Resident, entry: Waiting, num_computed: int) -> int:
        """Put a waiting request, of which `num_computed` tokens were prefix hits, into a free row; returns the row."""
        row, request, known = self._free.pop(), resident.request, entry.known
        self.token_ids[row, : len(known)] = known
        self.num_prompt[row] = request.num_prompt
        self.num_known[row] = self.num_tokens[row] = len(known)
        self.num_computed[row] = self.num_reusable[row] = num_computed
        self.min_total[row] = request.num_prompt + request.sampling.min_tokens
        self.max_total[row] = request.max_total
        self.priority[row] = entry.rank[0]
        self.sequence[row] = entry.sequence
        self.client[row] = request.client
        self.handle[row] = request.handle
        self.is_new[row] = entry.is_new
        self.is_live[row] = True
        self._set_stop_ids(row, request.stop_ids)
        self.residents[row] = resident
        return row

    def resident(self, row: int) -> Resident:
        """The request in a live row."""
        resident = self.residents[row]
        assert resident is not None, f"row {row} is empty"
        return resident

    def retire(self, row: int) -> None:
        """The row's request is gone; the row itself comes back with `recycle` once no step in flight names it."""
        self.is_live[row] = False
        self.residents[row] = None

    def recycle(self, row: int) -> None:
        """The row may be taken again."""
        self._free.append(row)

    def known_tokens(self, row: int) -> NDArray[np.int32]:
        """Prompt and output tokens so far, as a copy. # [num_known]"""
        return self.token_ids[row, : self.num_known[row]].copy()

    def _set_stop_ids(self, row: int, stop_ids: tuple[int, ...]) -> None:
        width = self.stop_ids.shape[1]
        if len(stop_ids) > width:
            padding = np.full((self.max_num_seqs, len(stop_ids) - width), NO_TOKEN, dtype=np.int32)
            self.stop_ids = np.hstack([self.stop_ids, padding])
        self.stop_ids[row] = NO_TOKEN
        self.stop_ids[row, : len(stop_ids)] = stop_ids
