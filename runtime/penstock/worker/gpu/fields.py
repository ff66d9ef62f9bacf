"""What a row of the state table knows of its request besides tokens and blocks, in the layout that the device has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import NewRow
from penstock.worker.prompt_spans import NO_LOGPROBS

FIELDS = np.dtype(
    [
        ("num_tokens", "<i4"),  # known: prompt and outputs
        ("num_prompt", "<i4"),
        ("num_computed", "<i4"),  # tokens whose KV is written
        ("num_blocks", "<i4"),  # the host counts on alone
        ("min_total", "<i4"),  # stop tokens are masked below this many tokens
        ("num_biases", "<i4"),  # entries of `logit_bias`
        ("num_stops", "<i4"),
        ("logprobs", "<i4"),  # alternatives wanted, or NO_LOGPROBS
        ("prompt_logprobs", "<i4"),
        ("top_k", "<i4"),  # 0: off
        ("temperature", "<f4"),  # 0: greedy
        ("top_p", "<f4"),
        ("min_p", "<f4"),
        ("presence_penalty", "<f4"),
        ("frequency_penalty", "<f4"),
        ("repetition_penalty", "<f4"),
        ("seed", "<i8"),  # the low 64 bits
    ]
)
NUM_WORDS = FIELDS.itemsize // 4  # of one row
Rows = NDArray[np.void]  # of `FIELDS`


def fields_of(new: NewRow) -> np.void:
    """Every field of a row that is taken."""
    sampling = new.sampling
    values = {
        "num_tokens": len(new.token_ids),
        "num_prompt": new.num_prompt,
        "num_computed": new.num_computed,
        "num_blocks": len(new.block_ids),
        "min_total": new.num_prompt + sampling.min_tokens if sampling.min_tokens and new.stop_ids else 0,
        "num_biases": len(sampling.logit_bias),
        "num_stops": len(new.stop_ids) if sampling.min_tokens else 0,
        "logprobs": NO_LOGPROBS if sampling.logprobs is None else sampling.logprobs,
        "prompt_logprobs": NO_LOGPROBS if sampling.prompt_logprobs is None else sampling.prompt_logprobs,
        "top_k": max(0, sampling.top_k),
        "temperature": 0.0 if sampling.is_greedy else sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": np.uint64((sampling.seed or 0) & (1 << 64) - 1).astype(np.int64),
    }
    row: np.void = np.array([tuple(values[name] for name in FIELDS.names or ())], dtype=FIELDS)[0]
    return row


def is_penalised(rows: Rows) -> NDArray[np.bool_]:
    """Which rows lower what they have said already."""
    is_any: NDArray[np.bool_] = (
        (rows["repetition_penalty"] != 1) | (rows["presence_penalty"] != 0) | (rows["frequency_penalty"] != 0)
    )
    return is_any


def is_edited(rows: Rows) -> NDArray[np.bool_]:
    """Which rows change single logits of their next token."""
    is_any: NDArray[np.bool_] = (rows["num_biases"] > 0) | (rows["num_tokens"] < rows["min_total"])
    return is_any
