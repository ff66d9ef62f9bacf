"""Log-probabilities from the device: read beside the logits, copied to the host, finished there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from penstock.sampling.logprobs import Logprobs
from penstock.worker.gpu.step_memory import MAX_WIDTH, StepMemory
from penstock.worker.gpu.stream import Stream
from penstock_kernels.gpu.gather_logprobs import gather_logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLogprobs:
    """Where the device leaves those of `n` tokens. # pinned"""

    token: Tensor  # float32 [n]
    rank: Tensor  # int32 [n]
    log_total: Tensor  # float32 [n] turns logits into log-probabilities
    top: Tensor  # float32 [n, width] logits
    top_ids: Tensor  # int64 [n, width]

    def to_logprobs(self, rows: np.ndarray[tuple[int], np.dtype[np.intp]] | slice = slice(None)) -> Logprobs:
        """Those of some of the tokens, once the device has written them; a copy."""
        top, top_ids = self.top.numpy()[rows], self.top_ids.numpy()[rows]
        order = np.lexsort((top_ids, -top), axis=1)  # equals in order of id
        log_totals = self.log_total.numpy()[rows][:, None]
        return Logprobs(
            token=self.token.numpy()[rows].copy(),
            rank=self.rank.numpy()[rows].copy(),
            top_ids=np.take_along_axis(top_ids, order, axis=1).astype(np.int32),
            top=np.take_along_axis(top, order, axis=1) - log_totals,
        )


def of_failed(count: int, width: int, vocab_size: int) -> Logprobs:
    """Instead of those of numbers that are not finite: all tokens alike, as the CPU has it."""
    logprob = np.float32(-np.log(vocab_size))
    return Logprobs(
        token=np.full(count, logprob),
        rank=np.ones(count, dtype=np.int32),
        top_ids=np.tile(np.arange(width, dtype=np.int32), (count, 1)),
        top=np.full((count, width), logprob),
    )


class LogprobReader:
    """Reads a few rows at once. `read` runs on the device, `host_memory` is for the host before it."""

    def __init__(self, stream: Stream, memory: StepMemory) -> None:
        self._stream, self._memory = stream, memory
        self._max_width = min(MAX_WIDTH, memory.logits.shape[1])

    def host_memory(self, count: int, width: int) -> HostLogprobs:
        """For `count` tokens and `width` alternatives."""
        buffer, shape = self._stream.host_buffer, (count, min(width, self._max_width))
        return HostLogprobs(
            token=buffer((count,), torch.float32),
            rank=buffer((count,), torch.int32),
            log_total=buffer((count,), torch.float32),
            top=buffer(shape, torch.float32),
            top_ids=buffer(shape, torch.int64),
        )

    def read(self, logits: Tensor, token_ids: Tensor, out: HostLogprobs) -> None:
        """Those of `token_ids` int32 [n] under `logits` [n, vocab_size]; n is at most `ROWS_AT_ONCE`."""
        memory, (count, width) = self._memory, out.top.shape
        token, rank, log_total = memory.token_logprob[:count], memory.token_rank[:count], memory.log_total[:count]
        gather_logprobs(logits, token_ids, logprobs=token, ranks=rank, log_totals=log_total).run()
        pairs = [(out.token, token), (out.rank, rank), (out.log_total, log_total)]
        if width:
            top, top_ids = (part[: count * width].view(count, width) for part in (memory.top, memory.top_ids))
            torch.topk(logits, width, dim=1, out=(top, top_ids))
            pairs += [(out.top, top), (out.top_ids, top_ids)]
        for target, source in pairs:
            target.copy_(source, non_blocking=True)
