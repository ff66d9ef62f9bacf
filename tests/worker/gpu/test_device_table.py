"""The table on the device holds what the CPU's holds, whatever the plans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.core.plan import NewRow, StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.state_table import NO_BLOCK, StateTable
from penstock.worker.gpu.fields import FIELDS, is_edited, is_penalised
from penstock.worker.gpu.state_table import DeviceTable

NUM_ROWS, MAX_LEN, BLOCK_SIZE = 7, 40, 4
SHARED = [name for name in FIELDS.names or () if name not in ("num_biases", "num_stops")]


def random_sampling(dice: np.random.Generator) -> SamplingParams:
    """Any of the parameters, each off half of the time."""

    def maybe(value: object, off: object) -> object:
        return value if dice.random() < 0.5 else off

    ids = dice.choice(90, int(dice.integers(1, 6)), replace=False).tolist()
    return SamplingParams(
        temperature=maybe(0.7, 0.0),
        top_k=maybe(int(dice.integers(-1, 9)), 0),
        top_p=maybe(0.9, 1.0),
        min_p=maybe(0.1, 0.0),
        presence_penalty=maybe(0.5, 0.0),
        frequency_penalty=maybe(-0.25, 0.0),
        repetition_penalty=maybe(1.2, 1.0),
        min_tokens=maybe(3, 0),
        logit_bias=maybe({token: float(token) / 8 for token in ids}, {}),
        seed=maybe(int(dice.integers(-(2**62), 2**62)), None),
        logprobs=maybe(2, None),
        prompt_logprobs=maybe(1, None),
    )


class Plans:
    """Plans at random; rows are taken, grown and freed."""

    def __init__(self, seed: int) -> None:
        self.dice = np.random.default_rng(seed)
        self.lengths: dict[int, int] = {}
        self.blocks: dict[int, int] = {}

    def next(self) -> StepPlan:
        freed = [row for row in self.lengths if self.dice.random() < 0.2]
        for row in freed:
            del self.lengths[row], self.blocks[row]
        new = [self.take(row) for row in range(NUM_ROWS) if row not in self.lengths and self.dice.random() < 0.4]
        taken = {row.row for row in new}
        grown = [row for row in self.lengths if row not in taken for _ in range(int(self.dice.integers(0, 3)))]
        grown = [row for i, row in enumerate(grown) if self.blocks[row] + grown[: i + 1].count(row) <= 10]
        for row in grown:
            self.blocks[row] += 1
        self.dice.shuffle(grown)
        return StepPlan(
            step=0,
            freed_rows=np.array(freed, dtype=np.int32),
            new_rows=tuple(new),
            block_rows=np.array(grown, dtype=np.int32),
            block_ids=self.dice.integers(1, 1000, len(grown)).astype(np.int32),
            rows=no_ints(),
            num_tokens=no_ints(),
        )

    def take(self, row: int) -> NewRow:
        length = int(self.dice.integers(1, MAX_LEN))
        self.lengths[row], self.blocks[row] = length, int(self.dice.integers(0, 5))
        return NewRow(
            row=row,
            token_ids=self.dice.integers(0, 90, length).astype(np.int32),
            num_prompt=int(self.dice.integers(1, length + 1)),
            num_computed=int(self.dice.integers(0, length)),
            block_ids=self.dice.integers(1, 1000, self.blocks[row]).astype(np.int32),
            sampling=random_sampling(self.dice),
            stop_ids=(7, 8) if self.dice.random() < 0.7 else (),
        )


@pytest.mark.parametrize("seed", range(3))
def test_every_field_of_every_row_is_the_cpus_after_any_plans(new_stream, seed):
    stream, plans = new_stream(seed), Plans(seed)
    table, expected = DeviceTable(NUM_ROWS, MAX_LEN, BLOCK_SIZE, stream), StateTable(NUM_ROWS, MAX_LEN, BLOCK_SIZE)
    for _ in range(8):
        plan = plans.next()
        table.apply(plan)
        table.send()
        expected.apply(plan)
        stream.record().wait()
        rows = sorted(plans.lengths)
        for name in SHARED:
            np.testing.assert_array_equal(table.rows[name][rows], expected.tensors[name][rows], err_msg=name)
            if name != "num_blocks":  # which only the host needs later
                np.testing.assert_array_equal(table.field(name)[rows].cpu(), table.rows[name][rows], err_msg=name)
        for name in ("token_ids", "block_table"):
            found = table.tensors[name][rows].cpu()
            np.testing.assert_array_equal(found, expected.tensors[name][rows], err_msg=name)
        for row in rows:
            check_edits(table, expected, row)


def check_edits(table: DeviceTable, expected: StateTable, row: int) -> None:
    """Of one row: biases, then stop tokens."""
    bias, stops = expected.logit_bias.get(row), expected.stop_ids.get(row, [])
    num_biases, num_stops = (int(table.field(name)[row]) for name in ("num_biases", "num_stops"))
    ids = table.tensors["edit_ids"][row].cpu()
    values = table.tensors["edit_biases"].view(torch.float32)[row].cpu()
    found = dict(zip(ids[:num_biases].tolist(), values[:num_biases].tolist(), strict=True))
    assert found == ({} if bias is None else dict(zip(bias.token_ids.tolist(), bias.values.tolist(), strict=True)))
    assert ids[num_biases : num_biases + num_stops].tolist() == list(stops)
    one = table.rows[row : row + 1]
    assert is_edited(one).item() == (bool(found) or expected.num_tokens[row] < expected.min_total[row])
    wants = SamplingParams().repetition_penalty
    assert is_penalised(one).item() == bool(
        expected.repetition_penalty[row] != wants or expected.presence_penalty[row] or expected.frequency_penalty[row]
    )


def test_padding_is_a_row_of_one_token_in_the_dummy_block(new_stream):
    stream = new_stream()
    table = DeviceTable(NUM_ROWS, MAX_LEN, BLOCK_SIZE, stream)
    table.set_dummy_step(3)
    table.send()
    stream.record().wait()
    assert table.step.rows[:3].tolist() == [NUM_ROWS] * 3
    assert table.step.counts[:3].tolist() == [1] * 3
    assert table.block_table[NUM_ROWS].tolist() == [0] + [NO_BLOCK] * 9
    assert (table.block_table[:NUM_ROWS] == NO_BLOCK).all()
    assert int(table.field("num_tokens")[NUM_ROWS]) == 1


def test_what_a_table_takes_is_known_before(new_stream):
    table = DeviceTable(NUM_ROWS, MAX_LEN, BLOCK_SIZE, new_stream())
    assert table.token_ids.untyped_storage().nbytes() == DeviceTable.num_bytes(NUM_ROWS, MAX_LEN, BLOCK_SIZE)
