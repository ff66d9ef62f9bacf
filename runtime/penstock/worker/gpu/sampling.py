"""From logits to tokens on the device, for all rows of a step at once; what few rows want costs the others nothing.

A row's own wishes change a copy of its logits, so the logits stay as the model gave them, for log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.core.plan import Ints
from penstock.worker.gpu.fields import Rows, is_edited, is_penalised
from penstock.worker.gpu.logprobs import HostLogprobs, LogprobReader
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.step_memory import ROWS_AT_ONCE, StepMemory
from penstock_kernels.gpu.edit_logits import edit_logits
from penstock_kernels.gpu.gather_sampling import gather_sampling
from penstock_kernels.gpu.penalise import penalise
from penstock_kernels.gpu.sample_tokens import sample_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What some rows of a step want beyond a token. # k: rows that sample"""

    is_edited: NDArray[np.bool_]  # [k]
    is_penalised: NDArray[np.bool_]  # [k]
    wants_logprobs: NDArray[np.bool_]  # [k]
    width: int  # alternatives of log-probabilities that the hungriest row wants
    longest: int  # tokens of the longest row with penalties

    @classmethod
    def of(cls, rows: Rows) -> Wishes:
        """Those of rows of the table, as they are before the step."""
        penalised = is_penalised(rows)
        logprobs = rows["logprobs"]
        return cls(
            is_edited=is_edited(rows),
            is_penalised=penalised,
            wants_logprobs=logprobs >= 0,
            width=int(logprobs.max(initial=0)),
            longest=int(rows["num_tokens"][penalised].max(initial=0)),
        )

    @property
    def is_plain(self) -> bool:
        """Nobody wants anything."""
        return not (self.is_edited.any() or self.is_penalised.any() or self.wants_logprobs.any())


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPart:
    """Log-probabilities of some of a step's sampled tokens, on their way to the host."""

    index: Ints  # entries of the step's tokens that want them
    rows: NDArray[np.intp]  # of `logprobs`, for each of these
    logprobs: HostLogprobs


class DeviceSampler:
    """Samples rows of the table. Its methods that take logits run on the device."""

    def __init__(self, table: DeviceTable, memory: StepMemory, reader: LogprobReader) -> None:
        self._table, self._memory, self._reader = table, memory, reader
        self._columns, self._edits, self._penalties = table.sampling_columns(), table.edits(), table.penalties()

    def prepare(self, wishes: Wishes, part: slice) -> list[SampledPart]:
        """Host memory for what `sample` of these rows will leave there."""
        return [
            SampledPart(
                index=(piece.start + np.flatnonzero(wanted)).astype(np.int32),
                rows=np.flatnonzero(wanted),
                logprobs=self._reader.host_memory(piece.stop - piece.start, wishes.width),
            )
            for piece in _pieces(part)
            if (wanted := wishes.wants_logprobs[piece]).any()
        ]

    def sample(self, logits: Tensor, part: slice, wishes: Wishes, answers: list[SampledPart]) -> None:
        """Choose a token for each of the step's rows in `part`, from `logits` [n, vocab_size]."""
        rows = self._table.step.sample_rows[part]
        memory = self._memory
        sampling = memory.sampling(0, len(rows))
        gather_sampling(self._columns, rows, sampling).run()
        if wishes.is_plain:
            sample_tokens(logits, sampling, token_ids=memory.token_ids[part]).run()
            return
        waiting = iter(answers)
        for piece in _pieces(part):
            begin, end = piece.start - part.start, piece.stop - part.start
            raw = logits[begin:end]
            changed = self._change(raw, rows[begin:end], wishes, piece)
            chosen = memory.token_ids[piece]
            sample_tokens(changed, memory.sampling(begin, end), token_ids=chosen).run()
            if wishes.wants_logprobs[piece].any():
                self._reader.read(raw, chosen, next(waiting).logprobs)

    def _change(self, raw: Tensor, rows: Tensor, wishes: Wishes, piece: slice) -> Tensor:
        """The logits as these rows want them; `raw` itself if they want nothing."""
        has_edits, has_penalties = wishes.is_edited[piece].any(), wishes.is_penalised[piece].any()
        if not (has_edits or has_penalties):
            return raw
        changed = self._memory.changed[: len(raw)].copy_(raw)
        if has_edits:
            edit_logits(changed, rows, self._edits).run()
        if has_penalties:
            counts = self._memory.counts[: len(raw)]
            for launch in penalise(changed, rows, self._penalties, longest=wishes.longest, counts=counts):
                launch.run()
        return changed


def _pieces(part: slice) -> Iterator[slice]:
    """A part of the step's rows, cut."""
    for start in range(part.start, part.stop, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, part.stop))
