"""From logits to tokens, for all rows of a step at once.

Everything is derived from the state table, so preemption, replay and recycled rows need no care here; and a row's token
depends on its own logits, parameters, seed and output index alone, never on the batch around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.core.plan import Floats, Ints
from penstock.sampling.filters import FilterLimits, draw_filtered
from penstock.sampling.logits_processors import add_logit_bias, mask_early_stops
from penstock.sampling.logprobs import Logprobs, logprobs_of
from penstock.sampling.penalties import penalise
from penstock.sampling.randomness import uniforms
from penstock.sampling.weights import build_weights

if TYPE_CHECKING:
    from penstock.worker.cpu.state_table import StateTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One token for each row."""

    token_ids: Ints  # [k]
    is_failed: NDArray[np.bool_]  # [k] logits were not finite; the token is 0 and means nothing
    logprob_index: NDArray[np.int64]  # [m] the entries that `logprobs` belongs to
    logprobs: Logprobs | None  # None if m is 0


def sample(table: StateTable, logits: Tensor, rows: Ints, width: int) -> Sampled:
    """Sample from `logits` (float32 [k, vocab_size], overwritten) for `rows` [k]; `width` alternatives of logprobs."""
    values: Floats = logits.numpy()
    is_failed = ~np.isfinite(logits.sum(dim=1).numpy())
    if is_failed.any():
        values[is_failed] = 0.0
    if table.is_plain[rows].all():
        token_ids = values.argmax(axis=1).astype(np.int32)
        no_index = np.empty(0, dtype=np.int64)
        return Sampled(token_ids=token_ids, is_failed=is_failed, logprob_index=no_index, logprobs=None)
    logprob_index = np.flatnonzero(table.logprobs[rows] >= 0)
    raw = values[logprob_index] if len(logprob_index) else None
    add_logit_bias(values, table, rows)
    mask_early_stops(values, table, rows)
    penalise(values, table, rows)
    token_ids = choose_tokens(table, values, rows)
    token_ids[is_failed] = 0
    return Sampled(
        token_ids=token_ids,
        is_failed=is_failed,
        logprob_index=logprob_index,
        logprobs=None if raw is None else logprobs_of(raw, token_ids[logprob_index], width),
    )


def choose_tokens(table: StateTable, logits: Floats, rows: Ints) -> Ints:
    """Greedy rows take the largest of `logits` [k, vocab_size] (the lowest id among equals), others draw. # [k]"""
    is_drawn = table.temperature[rows] > 0
    if not is_drawn.any():
        greedy_ids: Ints = logits.argmax(axis=1).astype(np.int32)
        return greedy_ids
    token_ids = np.empty(len(rows), dtype=np.int32)
    greedy = np.flatnonzero(~is_drawn)
    token_ids[greedy] = logits[greedy].argmax(axis=1)
    is_filtered = is_drawn & ((table.top_p[rows] < 1) | (table.top_k[rows] > 0) | (table.min_p[rows] > 0))
    for group, draw in ((is_drawn & ~is_filtered, _draw), (is_filtered, _draw_filtered)):
        index = np.flatnonzero(group)
        if len(index):
            chosen = logits if len(index) == len(rows) else logits[index]
            token_ids[index] = draw(table, chosen, rows[index])
    return token_ids


def _draw(table: StateTable, logits: Floats, rows: Ints) -> NDArray[np.int64]:
    return build_weights(logits, table.temperature[rows]).draw(_uniforms(table, rows))


def _draw_filtered(table: StateTable, logits: Floats, rows: Ints) -> NDArray[np.int64]:
    limits = FilterLimits(top_k=table.top_k[rows], top_p=table.top_p[rows], min_p=table.min_p[rows])
    return draw_filtered(build_weights(logits, table.temperature[rows]), limits, _uniforms(table, rows))


def _uniforms(table: StateTable, rows: Ints) -> NDArray[np.float64]:
    """The random number of each row's next output."""
    return uniforms(table.seed[rows], (table.num_tokens[rows] - table.num_prompt[rows]).astype(np.int64))
