"""Penalties on tokens that a row already holds, computed from its token ids: no counts to keep or to get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import Floats, Ints

if TYPE_CHECKING:
    from penstock.worker.cpu.state_table import StateTable

Index = NDArray[np.int64]


def penalise(logits: Floats, table: StateTable, rows: Ints) -> None:
    """Lower `logits` [k, vocab_size] of `rows` [k] in place, as OpenAI and CTRL (Keskar et al. 2019) define it.

    repetition: tokens of prompt and output, positive logits divided and others multiplied by it; then
    presence: subtracted for each token of the output; frequency: subtracted once per occurrence in the output.
    """
    repeating = np.flatnonzero(table.repetition_penalty[rows] != 1)
    if len(repeating):
        _penalise_repetition(logits, table, rows, repeating)
    subtracting = np.flatnonzero((table.presence_penalty[rows] != 0) | (table.frequency_penalty[rows] != 0))
    if len(subtracting):
        _penalise_outputs(logits, table, rows, subtracting)


def _penalise_repetition(logits: Floats, table: StateTable, rows: Ints, index: Index) -> None:
    """Each entry is computed from the logit as it was, so that a token that occurs twice is penalised once."""
    index, tokens = _tokens_from(table, rows, index, np.zeros(len(index), dtype=np.int32))
    values, penalties = logits[index, tokens], table.repetition_penalty[rows[index]]
    logits[index, tokens] = np.where(values > 0, values / penalties, values * penalties)


def _penalise_outputs(logits: Floats, table: StateTable, rows: Ints, index: Index) -> None:
    index, tokens = _tokens_from(table, rows, index, table.num_prompt[rows[index]])
    keys, occurrences = np.unique(index * logits.shape[1] + tokens, return_counts=True)
    index, tokens = np.divmod(keys, logits.shape[1])
    lowered = table.frequency_penalty[rows[index]] * occurrences.astype(np.float32)
    logits[index, tokens] -= lowered + table.presence_penalty[rows[index]]


def _tokens_from(table: StateTable, rows: Ints, index: Index, starts: Ints) -> tuple[Index, Index]:
    """The tokens of `rows[index]` from `starts` on, each with the entry of `rows` that it belongs to. # both [m]"""
    counts = table.num_tokens[rows[index]] - starts
    ends = np.cumsum(counts)
    positions = np.arange(ends[-1]) - np.repeat(ends - counts - starts, counts)
    owners = np.repeat(index, counts)
    return owners, table.token_ids[rows[owners], positions].astype(np.int64)
