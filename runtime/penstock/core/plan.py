"""What the scheduler tells the workers, and what they answer. Plain columns; nothing here is a live object.

Row numbers are those of the `RequestTable`; the worker's `StateTable` uses the same ones, so that a plan is only what
changed plus the decision itself, `{row: num_tokens}` as two arrays.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.sampling.params import SamplingParams

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class NewRow(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request that takes a row, in full: first admission, or return after preemption or engine death."""

    row: int
    token_ids: Ints  # [num_prompt + num_outputs so far]
    num_prompt: int
    num_computed: int  # tokens whose KV the prefix cache already holds
    block_ids: Ints  # [num_blocks] all blocks that the row holds after this plan
    sampling: SamplingParams
    stop_ids: tuple[int, ...]  # masked until min_tokens outputs exist


class StepPlan(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One step. Apply in this order: `freed_rows`, `new_rows`, appended blocks, then run `rows`."""

    step: int
    freed_rows: Ints  # [num_freed] rows that no longer belong to anyone
    new_rows: tuple[NewRow, ...]
    block_rows: Ints  # [num_appended] row that gets a block …
    block_ids: Ints  # [num_appended] … and which, appended to its table in this order
    rows: Ints  # [num_reqs] batch index -> row
    num_tokens: Ints  # [num_reqs] tokens to compute for it, from its num_computed on

    @property
    def num_scheduled(self) -> int:
        """Tokens of this step over all rows."""
        return int(self.num_tokens.sum())


class TokenLogprobs(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Log-probabilities (natural log, before any sampling adjustment) of some sampled tokens."""

    index: Ints  # [m] which entries of the token column these belong to
    sampled: Floats  # [m] of the sampled token
    rank: Ints  # [m] of the sampled token; 1 is the most likely
    top_ids: Ints  # [m, width] the most likely tokens, best first
    top: Floats  # [m, width]


class PromptLogprobs(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Log-probabilities of prompt tokens `start … start + n - 1` of one row, each given all tokens before it."""

    row: int
    start: int  # at least 1: the first token has none
    token: Floats  # [n]
    rank: Ints  # [n]
    top_ids: Ints  # [n, width]
    top: Floats  # [n, width]


class StepResult(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a step produced: a token for each row whose known tokens are all computed now."""

    step: int
    rows: Ints  # [k] rows that sampled, in the order of the plan
    token_ids: Ints  # [k]
    logprobs: TokenLogprobs | None
    prompt_logprobs: tuple[PromptLogprobs, ...]
    failed_rows: Ints  # rows (also in `rows`) whose logits were not finite: their request ends, others go on
    elapsed: float  # seconds from submit to result; an input of the scheduler, so traces replay


def no_ints() -> Ints:
    """An empty int32 column."""
    return np.empty(0, dtype=np.int32)
