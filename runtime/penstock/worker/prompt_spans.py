"""Prompt tokens whose log-probabilities a step finds on its way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.core.plan import Ints

NO_LOGPROBS = -1  # wanted of a row


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpan:
    """Positions of one row in this step whose logits tell the probability of the prompt token that follows."""

    row: int
    width: int  # alternatives wanted
    first_token: int  # index of the span's first position among the step's tokens
    start: int  # that position in the row; the token it predicts is the one at `start + 1`
    count: int


def prompt_spans(
    rows: Ints, widths: Ints, num_prompt: Ints, starts: Ints, ends: Ints, token_starts: Ints
) -> tuple[PromptSpan, ...]:
    """Spans of the rows that want them; the last prompt token predicts an output, so no prompt.

    Of each request of the step: its row, the alternatives it wants or `NO_LOGPROBS`, its prompt tokens, the positions
    that it computes, and its first token in the step. # all [num_reqs], `token_starts` may be longer
    """
    wants = widths != NO_LOGPROBS
    if not wants.any():
        return ()
    counts = np.minimum(ends, num_prompt - 1) - starts
    return tuple(
        PromptSpan(
            row=int(rows[i]),
            width=int(widths[i]),
            first_token=int(token_starts[i]),
            start=int(starts[i]),
            count=int(counts[i]),
        )
        for i in np.flatnonzero(wants & (counts > 0)).tolist()
    )
