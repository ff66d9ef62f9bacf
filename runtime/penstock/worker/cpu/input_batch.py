"""From a plan and the state table to the model's input, without a loop over requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.core.plan import Ints, StepPlan
from penstock.worker.cpu.state_table import StateTable
from penstock.worker.prompt_spans import PromptSpan, prompt_spans


@dataclass(frozen=True, slots=True, kw_only=True)
class InputBatch:
    """One step, ready to run."""

    forward: ForwardBatch
    sample_rows: Ints  # [k] rows whose known tokens are all computed after this step, in the order of the plan
    sample_index: NDArray[np.int64]  # [k] their last token among the step's tokens
    prompt_spans: tuple[PromptSpan, ...]


def build_input_batch(table: StateTable, plan: StepPlan, kv_cache: Tensor) -> InputBatch:
    """The step that `plan` asks for, given what `table` knows now; `plan.rows` must not be empty."""
    rows, counts = plan.rows, plan.num_tokens
    starts = table.num_computed[rows]
    ends = starts + counts  # [num_reqs]
    num_known = table.num_tokens[rows]
    assert (ends <= num_known).all(), f"step {plan.step} computes tokens that nobody has sampled: {ends - num_known}"
    query_start_loc = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(counts, out=query_start_loc[1:])
    num_tokens = int(query_start_loc[-1])
    if num_tokens == len(rows):  # every row decodes
        positions, owners = starts, rows
    else:
        positions = np.arange(num_tokens, dtype=np.int32) + np.repeat(starts - query_start_loc[:-1], counts)
        owners = np.repeat(rows, counts)
    is_last = ends == num_known
    forward = ForwardBatch(
        input_ids=torch.from_numpy(table.token_ids[owners, positions]),
        positions=torch.from_numpy(positions),
        query_start_loc=torch.from_numpy(query_start_loc),
        seq_lens=torch.from_numpy(ends),
        rows=torch.from_numpy(np.ascontiguousarray(rows) if rows.flags.writeable else rows.copy()),
        block_table=table.tensors["block_table"],
        kv_cache=kv_cache,
    )
    return InputBatch(
        forward=forward,
        sample_rows=rows[is_last],
        sample_index=(query_start_loc[1:][is_last] - 1).astype(np.int64),
        prompt_spans=prompt_spans(
            rows, table.prompt_logprobs[rows], table.num_prompt[rows], starts, ends, query_start_loc
        ),
    )
