"""Runs plans on a GPU without ever waiting for it: the next step is told while the device is busy with this one."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from penstock.core.plan import StepPlan
from penstock.worker.gpu.forward import Forward, SegmentedModel
from penstock.worker.gpu.graphs import BatchDescriptor, Dispatch, GraphSet, GraphSizes, Mode, dispatch
from penstock.worker.gpu.logprobs import HostLogprobs, LogprobReader
from penstock.worker.gpu.sampling import DeviceSampler, SampledPart, Wishes
from penstock.worker.gpu.state_table import DeviceTable, HostStep, settle
from penstock.worker.gpu.step_handle import Answer, GpuStep, StepClock
from penstock.worker.gpu.step_memory import MAX_LOGITS, ROWS_AT_ONCE, StepMemory
from penstock.worker.gpu.stream import Stream
from penstock.worker.prompt_spans import PromptSpan, prompt_spans
from penstock_kernels.gpu.advance import advance


class GpuRunner:
    """Owns the device's state; `submit` begins a step, its handle waits for it. Any number may be in flight.

    Everything happens in stream order, so a step reads the tokens that the one before samples, and memory is shared by
    all steps; only what the host reads or writes is guarded by events.
    """

    def __init__(
        self,
        model: SegmentedModel,
        kv_cache: Tensor,
        table: DeviceTable,
        stream: Stream,
        *,
        sizes: GraphSizes,
        max_logits: int = MAX_LOGITS,
    ) -> None:
        """`sizes`: the graphs to capture, none for `--optimize 0`; steps have at most `len(model.hidden)` tokens."""
        self._model, self._table, self._stream = model, table, stream
        self._vocab_size = model.spec.vocab_size
        self._memory = StepMemory.allocate(
            model.hidden,
            vocab_size=self._vocab_size,
            max_num_seqs=table.max_num_seqs,
            max_logits=max_logits,
        )
        self._reader = LogprobReader(stream, self._memory)
        self._sampler = DeviceSampler(table, self._memory, self._reader)
        self._progress = table.progress()
        forward = Forward(model, kv_cache, table, self._memory)
        self.graphs = GraphSet(forward, table, stream, sizes)
        settle(stream.device)
        self._clock = StepClock()
        self._free_answers: list[Tensor] = []  # int32 [max_num_seqs] each

    def submit(self, plan: StepPlan) -> GpuStep:
        """Begin a step; never waits for the device."""
        begin = time.perf_counter()
        table = self._table
        step = table.apply(plan)
        if not len(plan.rows):
            table.send()
            return self._handle(plan.step, begin, step, [], [])
        spans = self._prompt_spans(step)
        wishes = Wishes.of(table.rows[step.sample_rows])
        chosen = self._dispatch(step, has_spans=bool(spans))
        table.set_step(step, chosen.num_requests)
        table.send()
        table.advance(step)
        self._stream.enqueue(self.graphs.step(chosen, most=int(step.counts.max())))
        read = [(span, self._read_prompt(span)) for span in spans]
        sampled = self._sample(step, wishes, chosen)
        return self._handle(plan.step, begin, step, sampled, read)

    def _dispatch(self, step: HostStep, *, has_spans: bool) -> Dispatch:
        num_tokens, num_requests = int(step.counts.sum()), len(step.rows)
        assert num_tokens <= self._memory.max_tokens, f"{num_tokens} tokens in a step of {self._memory.max_tokens}"
        is_decode = num_tokens == num_requests and not has_spans
        descriptor = BatchDescriptor(num_tokens=num_tokens, num_requests=num_requests, is_decode=is_decode)
        return dispatch(descriptor, self.graphs.sizes)

    def _prompt_spans(self, step: HostStep) -> tuple[PromptSpan, ...]:
        mine, ends = self._table.rows[step.rows], step.starts + step.counts
        widths, num_prompt = mine["prompt_logprobs"], mine["num_prompt"]
        return prompt_spans(step.rows, widths, num_prompt, step.starts, ends, step.token_starts)

    def _read_prompt(self, span: PromptSpan) -> list[HostLogprobs]:
        """Have the device leave a span's log-probabilities in host memory, a few rows at once."""
        at_once = min(ROWS_AT_ONCE, self._memory.max_logits)
        pieces = [range(i, min(i + at_once, span.count)) for i in range(0, span.count, at_once)]
        parts = [self._reader.host_memory(len(piece), span.width) for piece in pieces]
        following = self._table.token_ids[span.row, span.start + 1 : span.start + 1 + span.count]
        states = self._model.hidden[span.first_token : span.first_token + span.count]

        def work() -> None:
            for piece, part in zip(pieces, parts, strict=True):
                chosen = slice(piece.start, piece.stop)
                logits = self._model.logits(states[chosen], out=self._memory.logits[: len(piece)])
                self._reader.read(logits, following[chosen], part)

        self._stream.enqueue(work)
        return parts

    def _sample(self, step: HostStep, wishes: Wishes, chosen: Dispatch) -> list[SampledPart]:
        """Have the device choose tokens, and count the step as done there."""
        count, num_requests = int(step.is_last.sum()), len(step.rows)
        parts = [slice(i, min(i + self._memory.max_logits, count)) for i in range(0, count, self._memory.max_logits)]
        answers = [self._sampler.prepare(wishes, part) for part in parts]
        has_logits = chosen.mode is Mode.FULL and count == num_requests
        columns = self._table.step
        done = advance(
            self._progress,
            columns.rows[:num_requests],
            columns.counts[:num_requests],
            columns.places[:num_requests],
            self._memory.token_ids,
        )

        def work() -> None:
            for part, answer in zip(parts, answers, strict=True):
                logits = self._memory.logits[: part.stop - part.start]
                if not has_logits:
                    selected = self._memory.selected[: len(logits)]
                    torch.index_select(self._model.hidden, 0, columns.sample_index[part], out=selected)
                    self._model.logits(selected, out=logits)
                self._sampler.sample(logits, part, wishes, answer)
            done.run()

        self._stream.enqueue(work)
        return [sampled for answer in answers for sampled in answer]

    def _handle(
        self,
        step: int,
        begin: float,
        host_step: HostStep,
        sampled: list[SampledPart],
        spans: list[tuple[PromptSpan, list[HostLogprobs]]],
    ) -> GpuStep:
        """Have the device leave the step's tokens in host memory."""
        rows = host_step.sample_rows
        buffer = self._answer_memory()
        token_ids, source = buffer[: len(rows)], self._memory.token_ids[: len(rows)]
        if len(rows):
            self._stream.enqueue(partial(_copy, token_ids, source))
        answer = Answer(
            step=step,
            rows=np.ascontiguousarray(rows),
            token_ids=token_ids,
            sampled=tuple(sampled),
            spans=tuple(spans),
            vocab_size=self._vocab_size,
        )
        event = self._stream.record()
        return GpuStep(answer, event, begin, self._clock, lambda: self._free_answers.append(buffer))

    def _answer_memory(self) -> Tensor:
        if self._free_answers:
            return self._free_answers.pop()
        return self._stream.host_buffer((self._table.max_num_seqs,), torch.int32)


def _copy(target: Tensor, source: Tensor) -> None:
    """To pinned memory, in stream order."""
    target.copy_(source, non_blocking=True)
