"""Log-probabilities of tokens under the model's own logits, before any sampling adjustment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.core.plan import Floats, Ints
from penstock.sampling.weights import build_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Natural log-probabilities of one token per row, and of the likeliest ones."""

    token: Floats  # [n]
    rank: Ints  # [n] 1 is the most likely; equals share the better rank
    top_ids: Ints  # [n, width] best first
    top: Floats  # [n, width]


def logprobs_of(logits: Floats, token_ids: NDArray[np.int_] | Ints, width: int) -> Logprobs:
    """Those of `token_ids` [n] and of the `width` likeliest tokens under `logits` [n, vocab_size]."""
    largest = torch.from_numpy(logits).amax(dim=1).numpy().astype(np.float64)
    log_totals = np.log(build_weights(logits).totals) + largest  # [n]
    chosen = logits[np.arange(len(token_ids)), token_ids]
    width = min(width, logits.shape[1])
    top, top_ids = (part.numpy() for part in torch.topk(torch.from_numpy(logits), width, dim=1))
    order = np.lexsort((top_ids, -top), axis=1)  # equals in order of id
    top, top_ids = np.take_along_axis(top, order, axis=1), np.take_along_axis(top_ids, order, axis=1)
    return Logprobs(
        token=(chosen - log_totals).astype(np.float32),
        rank=(np.count_nonzero(logits > chosen[:, None], axis=1) + 1).astype(np.int32),
        top_ids=top_ids.astype(np.int32),
        top=(top - log_totals[:, None]).astype(np.float32),
    )


def concatenate(parts: Sequence[Logprobs]) -> Logprobs:
    """One after the other; all have the same width."""
    return Logprobs(
        token=np.concatenate([part.token for part in parts]),
        rank=np.concatenate([part.rank for part in parts]),
        top_ids=np.concatenate([part.top_ids for part in parts]),
        top=np.concatenate([part.top for part in parts]),
    )
