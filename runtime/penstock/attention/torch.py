"""Attention in plain torch, request by request in float32: what the other backends are judged by, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.attention.backend import AttentionNeeds, ForwardBatch
from penstock_kernels.kv_scales import UNSCALED, KvScales


class TorchAttention:
    """Slow: the host waits for the device in every layer, and scores are held as a whole."""

    name = "torch"
    is_capturable = False
    num_bytes = 0  # before a step; in a step it takes what it needs

    def __init__(self, needs: AttentionNeeds) -> None:
        self._needs = needs

    def prepare(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.prepare`: nothing."""

    def attend(self, layer: int, query: Tensor, batch: ForwardBatch, out: Tensor, scales: KvScales = UNSCALED) -> None:
        """See `AttentionBackend.attend`."""
        scale, window = self._needs.scale, self._needs.windows[layer]
        starts, lengths, rows = (part.tolist() for part in (batch.query_start_loc, batch.seq_lens, batch.rows))
        for request, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            begin, end = starts[request], starts[request + 1]
            if begin < end:
                keys, values = cached(batch.kv_cache, layer, batch.block_table[row], length)
                keys, values = keys * scales.key, values * scales.value
                seen = attended(query[begin:end].float(), keys, values, scale, window)
                out[begin:end] = seen.to(out.dtype)


def cached(kv_cache: Tensor, layer: int, table: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values of one request, float32 [length, Hkv, D] each; zeros where its block lies outside the cache."""
    num_blocks, block_size = kv_cache.shape[0], kv_cache.shape[4]
    token = torch.arange(length, device=table.device)
    block = table[token // block_size].long()
    is_there = (block >= 0) & (block < num_blocks)
    found = kv_cache[:, :, layer][block * is_there, :, :, token % block_size].float()  # [length, Hkv, 2, D]
    keys, values = torch.where(is_there[:, None, None, None], found, 0.0).unbind(2)
    return keys, values


def attended(query: Tensor, keys: Tensor, values: Tensor, scale: float, window: int) -> Tensor:
    """What the last tokens of a request, `query` [n, H, D], see of all its tokens; causal. # [n, H, D]"""
    group = query.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query, keys) * scale
    position = torch.arange(len(keys), device=keys.device)
    distance = position[len(keys) - len(query) :, None] - position
    is_seen = (distance >= 0) & (distance < window) if window else distance >= 0
    weights = torch.softmax(scores.masked_fill(~is_seen, float("-inf")), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, values)
