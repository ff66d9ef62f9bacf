"""Permanent rows: deltas in, nothing left of whoever had the row before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from penstock.core.plan import NewRow, StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.state_table import COLUMNS, NO_BLOCK, StateTable
from support.rows import admit, new_row

EVERYTHING = SamplingParams(
    temperature=0.7,
    top_p=0.5,
    top_k=9,
    min_p=0.1,
    presence_penalty=1.0,
    frequency_penalty=1.5,
    repetition_penalty=1.3,
    logit_bias={3: 1.0},
    seed=-9,
    min_tokens=4,
    logprobs=3,
    prompt_logprobs=2,
)


def snapshot(table: StateTable) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in table.tensors.items()} | {
        "logit_bias": sorted(table.logit_bias),
        "stop_ids": sorted(table.stop_ids),
    }


def poison(table: StateTable) -> None:
    """Fill every column with nonsense, as if the rows' last owners had used everything."""
    for tensor in table.tensors.values():
        tensor.fill_(True if tensor.dtype == torch.bool else 77)
    admit(table, *(new_row(row, EVERYTHING, [1, 2], [3], stop_ids=[4]) for row in range(4)))
    for tensor in table.tensors.values():
        tensor.fill_(True if tensor.dtype == torch.bool else 77)


def test_a_freed_row_is_as_new():
    table = StateTable(4, 64, 16)
    poison(table)
    admit(table, freed=[0, 1, 2, 3])
    assert snapshot(table) == snapshot(StateTable(4, 64, 16))


def test_a_taken_row_keeps_nothing_of_its_last_owner_even_if_it_was_not_freed():
    fresh, used = StateTable(4, 64, 16), StateTable(4, 64, 16)
    poison(used)
    rows = [new_row(row, sampling, [5, 6, 7]) for row, sampling in enumerate([SamplingParams(), EVERYTHING] * 2)]
    for table in (fresh, used):
        admit(table, *rows)
    assert snapshot(used) == snapshot(fresh)


def test_every_column_has_a_test_value_that_differs_from_its_reset():
    table = StateTable(1, 64, 16)
    admit(table, new_row(0, EVERYTHING, [1, 2], [3], stop_ids=[4]))
    still_reset = [name for name, (_, reset) in COLUMNS.items() if table.tensors[name][0] == reset]
    assert still_reset == ["num_computed", "num_blocks"]  # set by other plans


def test_views_and_tensors_share_memory():
    table = StateTable(2, 64, 16)
    table.tensors["num_tokens"][1] = 5
    table.tensors["block_table"][1, 2] = 6
    assert table.num_tokens[1] == 5
    assert table.block_table[1, 2] == 6


def test_blocks_are_appended_in_order_to_each_row():
    table = StateTable(4, 160, 16)
    admit(table, new_row(1, SamplingParams(), [1]), new_row(3, SamplingParams(), [1]))
    first = NewRow(
        row=2,
        token_ids=np.array([1, 2], dtype=np.int32),
        num_prompt=2,
        num_computed=0,
        block_ids=np.array([40, 41], dtype=np.int32),
        sampling=SamplingParams(),
        stop_ids=(),
    )
    table.apply(plan(new_rows=(first,), grown=[(3, 7), (2, 8), (3, 9), (1, 10), (3, 11)]))
    table.apply(plan(grown=[(1, 12)]))
    assert table.block_table[1, :3].tolist() == [10, 12, NO_BLOCK]
    assert table.block_table[2, :4].tolist() == [40, 41, 8, NO_BLOCK]
    assert table.block_table[3, :4].tolist() == [7, 9, 11, NO_BLOCK]
    assert table.num_blocks.tolist() == [0, 2, 3, 3]


def test_a_row_freed_and_taken_in_one_plan_belongs_to_the_new_request():
    table = StateTable(2, 64, 16)
    admit(table, new_row(0, EVERYTHING, [1, 2, 3]))
    table.apply(plan(freed=[0], new_rows=(new_row(0, SamplingParams(), [9]),), grown=[(0, 5)]))
    assert table.num_tokens[0] == 1
    assert table.token_ids[0, :3].tolist() == [9, 0, 0]
    assert table.block_table[0, :2].tolist() == [5, NO_BLOCK]
    assert table.logit_bias == {}


def test_a_token_beyond_the_longest_length_is_dropped():
    table = StateTable(2, 4, 16)
    admit(table, new_row(0, SamplingParams(), [1, 2, 3, 4]), new_row(1, SamplingParams(), [1]))
    table.append(np.array([0, 1], dtype=np.int32), np.array([8, 9], dtype=np.int32))
    assert table.num_tokens.tolist() == [4, 2]
    assert table.token_ids[1].tolist() == [1, 9, 0, 0]


def plan(
    *, freed: Sequence[int] = (), new_rows: tuple[NewRow, ...] = (), grown: Sequence[tuple[int, int]] = ()
) -> StepPlan:
    pairs = np.array(grown, dtype=np.int32).reshape(-1, 2)
    return StepPlan(
        step=1,
        freed_rows=np.array(freed, dtype=np.int32),
        new_rows=new_rows,
        block_rows=pairs[:, 0].copy(),
        block_ids=pairs[:, 1].copy(),
        rows=no_ints(),
        num_tokens=no_ints(),
    )
