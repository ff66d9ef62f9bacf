"""The vectorised input against a loop over requests and tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.plan import StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.input_batch import build_input_batch
from penstock.worker.cpu.state_table import StateTable
from support.rows import admit, new_row

KV_CACHE = torch.zeros(1, 1, 1, 2, 16, 4)


@st.composite
def rows_and_counts(draw: st.DrawFn) -> list[tuple[int, int, int, int, int | None, int]]:
    """(row, prompt, outputs, computed, prompt logprobs, tokens to compute) in the order of a batch."""
    cases = []
    for row in draw(st.permutations(range(8)))[: draw(st.integers(1, 8))]:
        prompt, outputs = draw(st.integers(1, 20)), draw(st.integers(0, 5))
        computed = draw(st.integers(0, prompt + outputs - 1))
        count = draw(st.integers(1, prompt + outputs - computed))
        cases.append((row, prompt, outputs, computed, draw(st.sampled_from([None, 0, 2])), count))
    return cases


@settings(max_examples=80, deadline=None)
@given(rows_and_counts())
def test_equals_a_loop_over_requests(cases: list[tuple[int, int, int, int, int | None, int]]):
    table = StateTable(8, 32, 16)
    for row, prompt, outputs, computed, logprobs, _ in cases:
        known = [100 * row + i for i in range(prompt + outputs)]
        admit(table, new_row(row, SamplingParams(prompt_logprobs=logprobs), known[:prompt], known[prompt:]))
        table.num_computed[row] = computed
    batch = build_input_batch(table, plan_of([case[0] for case in cases], [case[-1] for case in cases]), KV_CACHE)
    ids, positions, starts, samples, spans = [], [], [0], [], []
    for row, prompt, outputs, computed, logprobs, count in cases:
        for position in range(computed, computed + count):
            ids.append(100 * row + position)
            positions.append(position)
        if logprobs is not None and computed < prompt - 1:
            spans.append((row, logprobs, starts[-1], computed, min(count, prompt - 1 - computed)))
        starts.append(len(ids))
        if computed + count == prompt + outputs:
            samples.append((row, len(ids) - 1))
    forward = batch.forward
    assert forward.input_ids.tolist() == ids
    assert forward.positions.tolist() == positions
    assert forward.query_start_loc.tolist() == starts
    assert forward.seq_lens.tolist() == [case[3] + case[5] for case in cases]
    assert forward.rows.tolist() == [case[0] for case in cases]
    assert list(zip(batch.sample_rows.tolist(), batch.sample_index.tolist(), strict=True)) == samples
    found = [(span.row, span.width, span.first_token, span.start, span.count) for span in batch.prompt_spans]
    assert found == spans
    columns = (forward.input_ids, forward.positions, forward.query_start_loc, forward.seq_lens, forward.rows)
    assert {column.dtype for column in columns} == {torch.int32}


def test_columns_that_came_over_the_wire_are_accepted():
    table = StateTable(2, 32, 16)
    admit(table, new_row(1, SamplingParams(), [4, 5]))
    plan = plan_of([1], [2])
    for column in (plan.rows, plan.num_tokens):
        column.flags.writeable = False
    assert build_input_batch(table, plan, KV_CACHE).forward.rows.tolist() == [1]


def plan_of(rows: list[int], counts: list[int]) -> StepPlan:
    return StepPlan(
        step=1,
        freed_rows=no_ints(),
        new_rows=(),
        block_rows=no_ints(),
        block_ids=no_ints(),
        rows=np.array(rows, dtype=np.int32),
        num_tokens=np.array(counts, dtype=np.int32),
    )
