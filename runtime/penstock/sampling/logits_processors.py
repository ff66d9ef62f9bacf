"""Changes to single logits that a request asked for. In place, on the rows that want them only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.core.plan import Floats, Ints

if TYPE_CHECKING:
    from penstock.worker.cpu.state_table import StateTable


def add_logit_bias(logits: Floats, table: StateTable, rows: Ints) -> None:
    """Add `logit_bias` to `logits` [k, vocab_size] of `rows` [k]."""
    for index in np.flatnonzero(table.is_biased[rows]).tolist():
        bias = table.logit_bias[int(rows[index])]
        logits[index, bias.token_ids] += bias.values


def mask_early_stops(logits: Floats, table: StateTable, rows: Ints) -> None:
    """Make stop tokens impossible for the rows that have fewer than `min_tokens` outputs."""
    for index in np.flatnonzero(table.num_tokens[rows] < table.min_total[rows]).tolist():
        logits[index, table.stop_ids[int(rows[index])]] = -np.inf
