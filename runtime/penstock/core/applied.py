"""What a step's result meant for the requests in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import Ints, PromptLogprobs, TokenLogprobs
from penstock.core.request import RequestKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One entry per new token, over all front-ends. # columns [k]"""

    clients: Ints
    handles: NDArray[np.int64]
    token_ids: Ints
    finish: NDArray[np.uint8]  # FinishReason
    started: list[tuple[RequestKey, int]]  # first token ever: prompt tokens that the cache had
    logprobs: TokenLogprobs | None  # `index` points into these columns
    prompt_logprobs: list[tuple[RequestKey, PromptLogprobs]]


def keep_logprobs(logprobs: TokenLogprobs | None, kept: NDArray[np.bool_]) -> TokenLogprobs | None:
    """The entries that belong to kept columns, with `index` pointing to where those are now. # kept: [k]"""
    if logprobs is None:
        return None
    mine = kept[logprobs.index]
    moved = np.cumsum(kept, dtype=np.int32) - 1
    return TokenLogprobs(
        index=moved[logprobs.index[mine]].astype(np.int32),
        sampled=logprobs.sampled[mine],
        rank=logprobs.rank[mine],
        top_ids=logprobs.top_ids[mine],
        top=logprobs.top[mine],
    )
