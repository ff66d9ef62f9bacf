"""A step of the model as work for the device: prepared from the state table, run piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.layers.segment import Segment
from penstock.models.spec import ModelSpec
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.step_memory import StepMemory
from penstock.worker.gpu.stream import Work
from penstock_kernels.gpu.prepare_inputs import prepare_inputs


class SegmentedModel(Protocol):
    """What the runner needs of a model on a GPU; a `CausalLM` is one."""

    @property
    def spec(self) -> ModelSpec:
        """Its sizes."""

    @property
    def hidden(self) -> Tensor:
        """[max_tokens, hidden_size]: where the last segment leaves its result, before the final norm."""

    def segments(self, batch: ForwardBatch) -> list[Segment]:
        """A step of this batch's shape, on memory that stays the same."""

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """`hidden` [k, hidden_size] -> `out` float32 [k, vocab_size]."""


class Forward:
    """Makes a step of a given shape, on memory that does not change from step to step."""

    def __init__(self, model: SegmentedModel, kv_cache: Tensor, table: DeviceTable, memory: StepMemory) -> None:
        self._model, self._kv_cache, self._table, self._memory = model, kv_cache, table, memory
        self._input_columns = table.input_columns()

    def decode(self, num_requests: int) -> Work:
        """One token for each request, up to its logits; can be captured whole."""
        prepare, segments = self.pieces(num_requests, num_requests, most=1)
        memory, model = self._memory, self._model

        def work() -> None:
            prepare()
            for segment in segments:
                segment.run()
            model.logits(model.hidden[:num_requests], out=memory.logits[:num_requests])

        return work

    def pieces(self, num_requests: int, num_tokens: int, *, most: int) -> tuple[Work, list[Segment]]:
        """What prepares a step of so many tokens, padding included, `most` of one request, and what runs it."""
        inputs = self._memory.inputs(num_tokens, num_requests)
        batch = self._memory.batch(self._table, self._kv_cache, inputs)
        step = self._table.step
        rows, counts = step.rows[:num_requests], step.counts[:num_requests]
        launches = prepare_inputs(
            self._input_columns, rows, counts, most=most, block_size=self._table.block_size, out=inputs
        )

        def prepare() -> None:
            for launch in launches:
                launch.run()

        return prepare, self._model.segments(batch)


def run_all(prepare: Work, pieces: list[Callable[[], None]]) -> Work:
    """One after the other."""

    def work() -> None:
        prepare()
        for piece in pieces:
            piece()

    return work
