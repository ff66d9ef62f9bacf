"""A stand-in for FlashAttention 3, in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from penstock.attention.torch import attended


class FlashRecorder:
    """Answers `flash_attn_with_kvcache` as its documentation has it, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def flash_attn_with_kvcache(self, query: Tensor, keys: Tensor, values: Tensor, **given: Any) -> Tensor:
        self.calls.append({"query": query, "keys": keys, "values": values, **given})
        assert given["causal"]
        assert given["page_table"].shape[0] == len(given["cache_seqlens"])
        assert given["page_table"].min() >= 0
        assert keys.stride(-1) == values.stride(-1) == 1
        out = torch.full_like(query, torch.nan)
        starts = given["cu_seqlens_q"].tolist()
        for index, length in enumerate(given["cache_seqlens"].tolist()):
            pages = given["page_table"][index].long()
            mine = slice(starts[index], starts[index + 1])
            window = given["window_size"][0] + 1
            parts = (part[pages].flatten(0, 1)[:length].float() for part in (keys, values))
            out[mine] = attended(query[mine].float(), *parts, given["softmax_scale"], window).to(out.dtype)
        return out
