"""What the device knows of each running request: permanent rows, the same numbers as the scheduler's `RequestTable`.

A plan brings only what changed, as runs of words into one arena:

```
│ fields │ token_ids │ block_table │ edit_ids │ edit_biases │ step │
  one row for each request, and a last one for padding        what the step at hand runs
```
Counts and parameters have a mirror on the host. Only the sampled tokens are the device's alone: what a step computes
and who samples in it follows from the plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from penstock.core.plan import Ints, NewRow, StepPlan
from penstock.sampling.limits import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS
from penstock.worker.gpu.deltas import Deltas, Uploader
from penstock.worker.gpu.fields import FIELDS, NUM_WORDS, Rows, fields_of
from penstock.worker.gpu.stream import Stream
from penstock_kernels.gpu.advance import NO_SAMPLE, Progress
from penstock_kernels.gpu.edit_logits import Edits
from penstock_kernels.gpu.gather_sampling import SamplingColumns
from penstock_kernels.gpu.kv_layout import NO_BLOCK
from penstock_kernels.gpu.penalise import PenaltyColumns
from penstock_kernels.gpu.prepare_inputs import TableColumns

MAX_EDITS = MAX_LOGIT_BIAS + MAX_STOP_TOKEN_IDS + 64  # the model's own end tokens besides
STAGING_WORDS = 1 << 18  # 1 MiB: what is sent at once
STEP_COLUMNS = ("rows", "counts", "places", "sample_rows", "sample_index")
NUM_DUMMY_ROWS = 1
ALIGNMENT = 64  # words
TYPES = {("i", 4): torch.int32, ("f", 4): torch.float32, ("i", 8): torch.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStep:
    """One step as the host knows it before it runs."""

    rows: Ints  # [num_reqs] batch index -> row
    counts: Ints  # [num_reqs] tokens to compute
    starts: Ints  # [num_reqs] tokens computed before
    is_last: np.ndarray[tuple[int], np.dtype[np.bool_]]  # [num_reqs] all known tokens are computed then: it samples

    @property
    def sample_rows(self) -> Ints:
        """Rows that sample, in the order of the plan. # [k]"""
        return self.rows[self.is_last]

    @property
    def token_starts(self) -> Ints:
        """Where each request's tokens begin among the step's, and their end. # [num_reqs + 1]"""
        starts = np.zeros(len(self.rows) + 1, dtype=np.int32)
        np.cumsum(self.counts, out=starts[1:])
        return starts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepColumns:
    """What the step at hand runs, where graphs find it. # int32 on the device, each [max_num_seqs]"""

    rows: Tensor  # batch index -> row
    counts: Tensor  # tokens to compute
    places: Tensor  # batch index -> place among the rows that sample, or NO_SAMPLE
    sample_rows: Tensor
    sample_index: Tensor  # the token whose logits are wanted


class DeviceTable:
    """`max_num_seqs` rows on the device, and a dummy row behind them. A row that is taken has every field set anew.

    Changes are gathered by `apply` and `set_step`, and sent by `send`.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int, stream: Stream) -> None:
        self.max_num_seqs, self.block_size = max_num_seqs, block_size
        self.rows: Rows = np.zeros(max_num_seqs + NUM_DUMMY_ROWS, dtype=FIELDS)  # the mirror of `fields`
        self._words = self.rows.view(np.int32).reshape(-1, NUM_WORDS)
        shapes = _shapes(max_num_seqs, max_model_len, block_size)
        ends = np.cumsum([_num_words(shape) for shape in shapes.values()]).tolist()
        self._starts = dict(zip(shapes, [0, *ends[:-1]], strict=True))
        self._widths = {name: shape[1] for name, shape in shapes.items()}
        memory = torch.zeros(ends[-1] + STAGING_WORDS, dtype=torch.int32, device=stream.device)
        arena, staging = memory[: ends[-1]], memory[ends[-1] :]
        self.tensors = {
            name: arena[start : start + prod(shapes[name])].view(shapes[name]) for name, start in self._starts.items()
        }
        self.token_ids, self.block_table = self.tensors["token_ids"], self.tensors["block_table"]
        columns = zip(STEP_COLUMNS, self.tensors["step"], strict=True)
        self.step = StepColumns(**dict(columns))
        self._deltas = Deltas()
        self._uploader = Uploader(stream, arena, staging)
        settle(stream.device)
        stream.enqueue(self._clear)

    @staticmethod
    def num_bytes(max_num_seqs: int, max_model_len: int, block_size: int) -> int:
        """What a table takes of the device, before it is taken."""
        shapes = _shapes(max_num_seqs, max_model_len, block_size)
        return 4 * (sum(_num_words(shape) for shape in shapes.values()) + STAGING_WORDS)

    @property
    def dummy_row(self) -> int:
        """The row of padding: one token, in the dummy block."""
        return self.max_num_seqs

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest request."""
        return self._widths["token_ids"]

    def field(self, name: str) -> Tensor:
        """A column of `fields` on the device, in its own type. # [max_num_seqs + 1]"""
        assert FIELDS.fields is not None, "FIELDS has names"
        kind, offset = FIELDS.fields[name][:2]
        dtype = TYPES[kind.kind, kind.itemsize]
        columns: Tensor = self.tensors["fields"].view(dtype)
        return columns[:, offset // dtype.itemsize]

    def input_columns(self) -> TableColumns:
        """What the model's input is prepared from."""
        return TableColumns(
            token_ids=self.token_ids, num_computed=self.field("num_computed"), block_table=self.block_table
        )

    def progress(self) -> Progress:
        """What a step changes itself."""
        return Progress(
            token_ids=self.token_ids, num_tokens=self.field("num_tokens"), num_computed=self.field("num_computed")
        )

    def sampling_columns(self) -> SamplingColumns:
        """How rows sample."""
        return SamplingColumns(**{name: self.field(name) for name in SamplingColumns.__dataclass_fields__})

    def edits(self) -> Edits:
        """Which logits rows change."""
        names = ("num_biases", "num_stops", "num_tokens", "min_total")
        return Edits(
            token_ids=self.tensors["edit_ids"],
            biases=self.tensors["edit_biases"].view(torch.float32),
            **{name: self.field(name) for name in names},
        )

    def penalties(self) -> PenaltyColumns:
        """What rows hold against tokens that they have had."""
        kinds = ("repetition", "presence", "frequency")
        return PenaltyColumns(
            token_ids=self.token_ids,
            num_tokens=self.field("num_tokens"),
            num_prompt=self.field("num_prompt"),
            **{kind: self.field(f"{kind}_penalty") for kind in kinds},
        )

    def apply(self, plan: StepPlan) -> HostStep:
        """Take over what a plan changes, and count its step as done: the device gets there before any later plan."""
        for new in plan.new_rows:
            self._take(new)
        if len(plan.block_rows):
            self._append_blocks(plan.block_rows, plan.block_ids)
        rows, counts = plan.rows, plan.num_tokens
        starts, known = self.rows["num_computed"][rows], self.rows["num_tokens"][rows]
        ends = starts + counts
        assert (ends <= known).all(), f"step {plan.step} computes tokens that nobody samples: {ends - known}"
        return HostStep(rows=rows, counts=counts, starts=starts, is_last=ends == known)

    def advance(self, step: HostStep) -> None:
        """The mirror of what the device does after a step."""
        self.rows["num_computed"][step.rows] += step.counts
        rows = step.sample_rows
        self.rows["num_tokens"][rows] = np.minimum(self.rows["num_tokens"][rows] + 1, self.max_model_len)

    def set_step(self, step: HostStep, num_requests: int) -> None:
        """Say what the next step runs: its requests, and the dummy row behind them up to `num_requests`."""
        places = np.where(step.is_last, np.cumsum(step.is_last, dtype=np.int32) - 1, NO_SAMPLE)
        columns = {
            "rows": _covering(step.rows, num_requests, self.dummy_row),
            "counts": _covering(step.counts, num_requests, 1),
            "places": places.astype(np.int32),
            "sample_rows": step.sample_rows,
            "sample_index": step.token_starts[1:][step.is_last] - 1,
        }
        for index, name in enumerate(STEP_COLUMNS):
            self._put("step", index, columns[name])

    def set_dummy_step(self, num_requests: int) -> None:
        """Say that the next step runs the dummy row so many times."""
        for name, value in (("rows", self.dummy_row), ("counts", 1), ("places", NO_SAMPLE)):
            self._put("step", STEP_COLUMNS.index(name), np.full(num_requests, value, dtype=np.int32))

    def send(self) -> None:
        """Have the device take over what has changed; returns at once."""
        self._uploader.send(self._deltas)

    def _take(self, new: NewRow) -> None:
        row = new.row
        before = self.rows[row].copy()
        self.rows[row] = fields_of(new)
        self._put("fields", row, self._words[row].copy())
        self._put("token_ids", row, _covering(new.token_ids, int(before["num_tokens"]), 0))
        self._put("block_table", row, _covering(new.block_ids, int(before["num_blocks"]), NO_BLOCK))
        biases = new.sampling.logit_bias
        stops = new.stop_ids if self.rows["num_stops"][row] else ()
        if biases or stops:
            assert len(biases) + len(stops) <= MAX_EDITS, f"{len(biases)} biases and {len(stops)} stop tokens"
            self._put("edit_ids", row, np.array([*biases, *stops], dtype=np.int32))
            self._put("edit_biases", row, np.array([*biases.values()], dtype=np.float32).view(np.int32))

    def _append_blocks(self, rows: Ints, block_ids: Ints) -> None:
        """Append block by block; a row may occur several times, its blocks then follow each other."""
        order = np.argsort(rows, kind="stable")
        taken, starts, counts = np.unique(rows[order], return_index=True, return_counts=True)
        earlier = np.arange(len(rows)) - np.repeat(starts, counts)  # blocks of the same row before this one
        columns = np.repeat(self.rows["num_blocks"][taken], counts) + earlier
        cells = np.repeat(taken.astype(np.int64), counts) * self._widths["block_table"] + columns
        self._deltas.add_each(cells + self._starts["block_table"], block_ids[order])
        self.rows["num_blocks"][taken] += counts.astype(np.int32)

    def _put(self, name: str, row: int, words: Ints) -> None:
        self._deltas.add(self._starts[name] + row * self._widths[name], words)

    def _clear(self) -> None:
        """Empty rows: no blocks, and a dummy row of one token in the dummy block."""
        self.block_table.fill_(NO_BLOCK)
        self.block_table[self.dummy_row, 0] = 0
        self.field("num_tokens")[self.dummy_row] = 1
        self.field("num_prompt")[self.dummy_row] = 1


def _shapes(max_num_seqs: int, max_model_len: int, block_size: int) -> dict[str, tuple[int, int]]:
    """The parts of the arena in words; `fields` first, where its 64-bit numbers are aligned."""
    num_rows = max_num_seqs + NUM_DUMMY_ROWS
    return {
        "fields": (num_rows, NUM_WORDS),
        "token_ids": (num_rows, max_model_len),
        "block_table": (num_rows, -(-max_model_len // block_size)),
        "edit_ids": (num_rows, MAX_EDITS),
        "edit_biases": (num_rows, MAX_EDITS),
        "step": (len(STEP_COLUMNS), max_num_seqs),
    }


def _num_words(shape: tuple[int, int]) -> int:
    """What a part takes: the next one begins where kernels like memory to begin."""
    return -(-prod(shape) // ALIGNMENT) * ALIGNMENT


def _covering(words: Ints, length: int, fill: int) -> Ints:
    """`words`, and `fill` behind them up to `length`: over what the row had before."""
    if length <= len(words):
        return words
    covered = np.full(length, fill, dtype=np.int32)
    covered[: len(words)] = words
    return covered


def settle(device: torch.device) -> None:
    """Wait for what was begun outside of the runner's stream, such as zeros for new memory."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
