"""A step on its way through the device, and what comes back of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from penstock.core.plan import Ints, PromptLogprobs, StepResult, TokenLogprobs
from penstock.sampling.logprobs import Logprobs, concatenate
from penstock.worker.gpu.logprobs import HostLogprobs, of_failed
from penstock.worker.gpu.sampling import SampledPart
from penstock.worker.gpu.stream import Event
from penstock.worker.prompt_spans import PromptSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Host memory that the device writes, and what it will mean."""

    step: int
    rows: Ints  # [k] that sample
    token_ids: Tensor  # int32 [k]
    sampled: tuple[SampledPart, ...]
    spans: tuple[tuple[PromptSpan, list[HostLogprobs]], ...]
    vocab_size: int

    def to_result(self, elapsed: float) -> StepResult:
        """What the device has written; a copy."""
        token_ids = self.token_ids.numpy()
        is_failed = token_ids < 0
        return StepResult(
            step=self.step,
            rows=self.rows,
            token_ids=np.where(is_failed, np.int32(0), token_ids),
            logprobs=self._logprobs(is_failed),
            prompt_logprobs=tuple(_prompt_logprobs(span, parts) for span, parts in self.spans),
            failed_rows=self.rows[is_failed],
            elapsed=elapsed,
        )

    def _logprobs(self, is_failed: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> TokenLogprobs | None:
        """Those of the tokens whose rows want them, or None."""
        if not self.sampled:
            return None
        found = concatenate([part.logprobs.to_logprobs(part.rows) for part in self.sampled])
        index = np.concatenate([part.index for part in self.sampled])
        failed = is_failed[index]
        if failed.any():
            stand_in = of_failed(int(failed.sum()), found.top.shape[1], self.vocab_size)
            for name in Logprobs.__dataclass_fields__:
                getattr(found, name)[failed] = getattr(stand_in, name)
        return TokenLogprobs(index=index, sampled=found.token, rank=found.rank, top_ids=found.top_ids, top=found.top)


def _prompt_logprobs(span: PromptSpan, parts: list[HostLogprobs]) -> PromptLogprobs:
    found = concatenate([part.to_logprobs() for part in parts])
    return PromptLogprobs(
        row=span.row, start=span.start + 1, token=found.token, rank=found.rank, top_ids=found.top_ids, top=found.top
    )


class StepClock:
    """How long steps take that overlap: each from its `submit`, or from the end of the one before if that is later."""

    def __init__(self) -> None:
        self._last_end = 0.0

    def elapsed(self, begin: float) -> float:
        """Of the step that began then and ends now."""
        end = time.perf_counter()
        seconds = end - max(begin, self._last_end)
        self._last_end = end
        return seconds


class GpuStep:
    """A submitted step; see `StepHandle`."""

    def __init__(self, answer: Answer, event: Event, begin: float, clock: StepClock, done: Callable[[], None]) -> None:
        """`done` is called once the answer's memory has been read."""
        self._answer, self._event, self._begin, self._clock, self._done = answer, event, begin, clock, done

    def is_done(self) -> bool:
        """True if `wait` would not block."""
        return self._event.is_reached()

    def wait(self) -> StepResult:
        """The result; blocks until the device has it. Once only."""
        self._event.wait()
        result = self._answer.to_result(self._clock.elapsed(self._begin))
        self._done()
        return result
