"""Runs plans: state table → input batch → model → sampler → state table."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from penstock.core.plan import Ints, PromptLogprobs, StepPlan, StepResult, TokenLogprobs, no_ints
from penstock.models.blocks import CausalLM
from penstock.sampling.logprobs import concatenate, logprobs_of
from penstock.sampling.sampler import Sampled, sample
from penstock.worker.cpu.input_batch import InputBatch, build_input_batch
from penstock.worker.cpu.state_table import StateTable
from penstock.worker.prompt_spans import PromptSpan

LOGITS_AT_ONCE = 1 << 22  # float32 elements: 16 MiB, so that neither memory nor cache misses grow with the batch


class ModelRunner:
    """Owns the device's state; `execute` applies a plan and runs it, plans strictly one after the other."""

    def __init__(self, model: CausalLM, kv_cache: Tensor, table: StateTable) -> None:
        self._model, self._kv_cache, self._table = model, kv_cache, table
        self._rows_at_once = max(1, LOGITS_AT_ONCE // model.spec.vocab_size)

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step; a row samples if all its known tokens are computed by then."""
        begin = time.perf_counter()
        self._table.apply(plan)
        if not len(plan.rows):
            return _result(plan, no_ints(), [], (), 0, begin)
        batch = build_input_batch(self._table, plan, self._kv_cache)
        hidden = self._model.forward(batch.forward)
        self._table.num_computed[plan.rows] += plan.num_tokens
        prompt_logprobs = tuple(self._prompt_logprobs(span, hidden) for span in batch.prompt_spans)
        parts = self._sample(batch, hidden)
        return _result(plan, batch.sample_rows, parts, prompt_logprobs, self._rows_at_once, begin)

    def _sample(self, batch: InputBatch, hidden: Tensor) -> list[Sampled]:
        """Sample in slices of rows, and append each token to its row."""
        rows = batch.sample_rows
        if not len(rows):
            return []
        width = max(0, int(self._table.logprobs[rows].max()))
        last = hidden if len(rows) == len(hidden) else hidden[torch.from_numpy(batch.sample_index)]
        parts = []
        for part in self._slices(len(rows)):
            sampled = sample(self._table, self._model.logits(last[part]), rows[part], width)
            self._table.append(rows[part], sampled.token_ids)
            parts.append(sampled)
        return parts

    def _prompt_logprobs(self, span: PromptSpan, hidden: Tensor) -> PromptLogprobs:
        """Log-probabilities of the prompt tokens that follow the span's positions."""
        states = hidden[span.first_token : span.first_token + span.count]
        following = self._table.token_ids[span.row, span.start + 1 : span.start + 1 + span.count]
        found = concatenate(
            [
                logprobs_of(self._model.logits(states[part]).numpy(), following[part], span.width)
                for part in self._slices(span.count)
            ]
        )
        return PromptLogprobs(
            row=span.row,
            start=span.start + 1,
            token=found.token,
            rank=found.rank,
            top_ids=found.top_ids,
            top=found.top,
        )

    def _slices(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self._rows_at_once):
            yield slice(start, min(start + self._rows_at_once, count))


def _result(
    plan: StepPlan,
    rows: Ints,
    parts: list[Sampled],
    prompt_logprobs: tuple[PromptLogprobs, ...],
    rows_at_once: int,
    begin: float,
) -> StepResult:
    """The step's answer from the slices that were sampled."""
    token_ids = np.concatenate([part.token_ids for part in parts]) if parts else no_ints()
    is_failed = np.concatenate([part.is_failed for part in parts]) if parts else np.empty(0, dtype=np.bool_)
    return StepResult(
        step=plan.step,
        rows=rows,
        token_ids=token_ids,
        logprobs=_token_logprobs(parts, rows_at_once),
        prompt_logprobs=prompt_logprobs,
        failed_rows=rows[is_failed],
        elapsed=time.perf_counter() - begin,
    )


def _token_logprobs(parts: list[Sampled], rows_at_once: int) -> TokenLogprobs | None:
    """The slices' log-probabilities as one, or None if no row wants any."""
    chosen = [part.logprobs for part in parts if part.logprobs is not None]
    if not chosen:
        return None
    found = concatenate(chosen)
    index = np.concatenate([part.logprob_index + number * rows_at_once for number, part in enumerate(parts)])
    return TokenLogprobs(
        index=index.astype(np.int32), sampled=found.token, rank=found.rank, top_ids=found.top_ids, top=found.top
    )
