"""Penalties on tokens that a row already holds, computed from its token ids: no counts to keep or to get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penstock.core.plan import Floats, Ints

if TYPE_CHECKING:
    from penstock.worker.state_table import StateTable


def penalise(logits: Floats, table: StateTable, rows: Ints) -> None:
    """Lower `logits` [k, vocab_size] of `rows` [k] in place, as OpenAI and CTRL (Keskar et al. 2019) define it.

    repetition: tokens of prompt and output, positive logits divided and others multiplied by it; then
    presence: subtracted for each token of the output; frequency: subtracted once per occurrence in the output.
    """
    index = np.flatnonzero(table.is_penalised[rows])
    if not len(index):
        return
    rows = rows[index]
    counts = table.num_tokens[rows]
    owners = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = table.token_ids[rows[owners], positions]
    _repetition(logits, index[owners], tokens, table.repetition_penalty[rows][owners])
    is_output = positions >= table.num_prompt[rows][owners]
    keys = owners[is_output] * logits.shape[1] + tokens[is_output]
    keys, occurrences = np.unique(keys, return_counts=True)
    owners, tokens = np.divmod(keys, logits.shape[1])
    lowered = table.frequency_penalty[rows][owners] * occurrences.astype(np.float32)
    logits[index[owners], tokens] -= lowered + table.presence_penalty[rows][owners]


def _repetition(logits: Floats, index: Ints, tokens: Ints, penalties: Floats) -> None:
    """Each entry is computed from the logit as it was, so that a token that occurs twice is penalised once."""
    values = logits[index, tokens]
    logits[index, tokens] = np.where(values > 0, values / penalties, values * penalties)
