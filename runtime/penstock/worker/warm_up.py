"""The first steps of a worker, so that the first request meets no cold path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock.core.plan import NewRow, StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.worker.kv_memory import KVLayout

WARM_UP_TOKENS = 32


def warm_up_plans(layout: KVLayout, room: int) -> Iterator[StepPlan]:
    """A prompt, if there is room in its last block one more token, and the row's end; nothing without `room` for a
    token of the cache."""
    num_tokens = min(WARM_UP_TOKENS, room)
    if num_tokens < 1:
        return
    new = NewRow(
        row=0,
        token_ids=np.zeros(num_tokens, dtype=np.int32),
        num_prompt=num_tokens,
        num_computed=0,
        block_ids=np.arange(1, layout.blocks_for(num_tokens) + 1, dtype=np.int32),
        sampling=SamplingParams(temperature=1.0, top_p=0.9, seed=0, logprobs=1),
        stop_ids=(),
    )
    yield plan_of(0, new_rows=(new,), num_tokens=num_tokens)
    if num_tokens % layout.block_size:
        yield plan_of(1, num_tokens=1)
    yield plan_of(2, freed=0)


def plan_of(step: int, *, new_rows: tuple[NewRow, ...] = (), num_tokens: int = 0, freed: int | None = None) -> StepPlan:
    """A plan for row 0 alone."""
    return StepPlan(
        step=step,
        freed_rows=no_ints() if freed is None else np.array([freed], dtype=np.int32),
        new_rows=new_rows,
        block_rows=no_ints(),
        block_ids=no_ints(),
        rows=np.zeros(1 if num_tokens else 0, dtype=np.int32),
        num_tokens=np.full(1 if num_tokens else 0, num_tokens, dtype=np.int32),
    )
