"""Steps for attention backends: a cache with scattered blocks, and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from penstock.attention.backend import AttentionBackend, AttentionNeeds, ForwardBatch
from penstock_kernels.kv_scales import UNSCALED, KvScales

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NEEDS = AttentionNeeds(
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    windows=(0, 0),
    device=DEVICE,
    dtype=torch.float32,
    kv_dtype=torch.float32,
    block_size=8,
    max_requests=6,
    max_tokens=64,
)


def needs_of(**changes: Any) -> AttentionNeeds:
    """Two layers of six heads in float32, but for `changes`."""
    return replace(NEEDS, **changes)


def attention_step(needs: AttentionNeeds, lengths: Sequence[tuple[int, int]]) -> tuple[Tensor, ForwardBatch]:
    """Queries [T, H, D] and the step of requests with so many queries and keys; memory of nobody holds NaN."""
    generator = torch.Generator().manual_seed(len(lengths))
    block_size, num_rows = needs.block_size, len(lengths) + 1
    columns = max(-(-keys // block_size) for _, keys in lengths)
    num_blocks = num_rows * columns
    shape = (num_blocks, needs.num_kv_heads, len(needs.windows), 2, block_size, needs.head_dim)
    kv_cache = torch.full(shape, torch.nan)
    table = torch.randperm(num_blocks, generator=generator).int().view(num_rows, columns)
    rows = torch.randperm(num_rows, generator=generator)[: len(lengths)]
    for row, (_, keys) in zip(rows.tolist(), lengths, strict=True):
        for first in range(0, keys, block_size):
            used = min(block_size, keys - first)
            content = torch.randn((*shape[1:4], used, needs.head_dim), generator=generator)
            kv_cache[int(table[row, first // block_size]), :, :, :, :used] = content
    counts = [queries for queries, _ in lengths]
    query = torch.randn((sum(counts), needs.num_heads, needs.head_dim), generator=generator)

    def ints(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=needs.device)

    nothing = ints([0] * sum(counts))  # attention asks for neither ids nor positions
    return query.to(needs.device, needs.dtype), ForwardBatch(
        input_ids=nothing,
        positions=nothing,
        query_start_loc=ints([0, *accumulate(counts)]),
        seq_lens=ints([keys for _, keys in lengths]),
        rows=rows.int().to(needs.device),
        block_table=table.to(needs.device),
        kv_cache=kv_cache.to(needs.device, needs.kv_dtype),
        is_decode=all(count == 1 for count in counts),
    )


def seen_by(
    backend: AttentionBackend, layer: int, query: Tensor, batch: ForwardBatch, scales: KvScales = UNSCALED
) -> Tensor:
    """What a backend computes; NaN where it writes nothing."""
    out = torch.full_like(query, torch.nan)
    backend.prepare(batch)
    backend.attend(layer, query, batch, out, scales)
    return out
