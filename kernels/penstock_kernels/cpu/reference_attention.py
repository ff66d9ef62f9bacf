"""Paged attention in plain torch, with the steps and the rounding of the compiled kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs, AttentionShape
from penstock_kernels.cpu.reference import rms_norm

KEYS_PER_STEP = 64
"""Keys that one step of the online softmax takes; steps begin at multiples of it, whatever the chunk."""
LOWEST = -1e30


def attention(qkv: Tensor, kv_cache: Tensor, layer: int, inputs: AttentionInputs, shape: AttentionShape) -> Tensor:
    """See `ops.attention`."""
    kv_heads, head_dim = kv_cache.shape[1], kv_cache.shape[5]
    tokens, heads = qkv.shape[0], shape.num_heads
    q, k, v = qkv.view(tokens, -1, head_dim).tensor_split((heads, heads + kv_heads), dim=1)
    if shape.q_norm is not None:
        q = rms_norm(q, shape.q_norm, shape.eps)
    if shape.k_norm is not None:
        k = rms_norm(k, shape.k_norm, shape.eps)
    q, k = (rotate(part, inputs.positions, inputs.cos_sin).to(kv_cache.dtype) for part in (q, k))
    out = torch.zeros(tokens, heads, head_dim)
    starts = inputs.query_start_loc.tolist()
    for index, (row, seq_len) in enumerate(zip(inputs.rows.tolist(), inputs.seq_lens.tolist(), strict=True)):
        begin, end = starts[index], starts[index + 1]
        slots = _slots(inputs.block_table[row], seq_len, kv_cache)
        pages = kv_cache[:, :, layer]
        first = seq_len - (end - begin)
        blocks, offsets, valid = (part[first:] for part in slots)
        for plane, new in enumerate((k[begin:end], v[begin:end].to(kv_cache.dtype))):
            pages[blocks[valid], :, plane, offsets[valid]] = new[valid]
        blocks, offsets, valid = slots
        cached = pages[blocks, :, :, offsets] * valid[:, None, None, None]
        out[begin:end] = _attend(q[begin:end], cached, valid, shape)
    return out.flatten(1)


def rotate(x: Tensor, positions: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the first `rotary_dim` elements of each head of `x` [T, H, D], halves apart (neox style)."""
    half = cos_sin.shape[1] // 2
    cos, sin = cos_sin[positions.long().clamp(0, cos_sin.shape[0] - 1)][:, None].tensor_split(2, dim=-1)
    first, second, rest = x.tensor_split((half, 2 * half), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _slots(table: Tensor, seq_len: int, kv_cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Block, offset in it and validity of each of a request's `seq_len` tokens."""
    index = torch.arange(seq_len)
    block_size = kv_cache.shape[4]
    column = index // block_size
    blocks = table[column.clamp(max=table.shape[0] - 1)].long()
    valid = (column < table.shape[0]) & (blocks >= 0) & (blocks < kv_cache.shape[0])
    return blocks * valid, index % block_size, valid


def _attend(q: Tensor, cached: Tensor, valid: Tensor, shape: AttentionShape) -> Tensor:
    """Online softmax of one request: `q` [n, H, D] over `cached` [seq_len, Hkv, 2, D]."""
    count, heads, head_dim = q.shape
    seq_len, kv_heads = cached.shape[:2]
    grouped = q.float().view(count, kv_heads, heads // kv_heads, head_dim)
    key, value = cached.float().permute(2, 1, 0, 3).unbind()
    positions = torch.arange(seq_len - count, seq_len)
    highest = torch.full(grouped.shape[:3], LOWEST)
    total, out = torch.zeros(grouped.shape[:3]), torch.zeros(grouped.shape)
    for begin in range(0, seq_len, KEYS_PER_STEP):
        step = slice(begin, min(begin + KEYS_PER_STEP, seq_len))
        distance = positions[:, None] - torch.arange(step.start, step.stop)
        seen = (distance >= 0) & valid[step]
        if shape.sliding_window:
            seen &= distance < shape.sliding_window
        scores = torch.einsum("nkgd,ktd->nkgt", grouped, key[:, step]) * shape.scale
        scores = scores.masked_fill(~seen[:, None, None], LOWEST)
        higher = torch.maximum(highest, scores.amax(dim=-1))
        weights = torch.exp(scores - higher[..., None]) * seen[:, None, None]
        decay = torch.exp(highest - higher)
        total = total * decay + weights.sum(dim=-1)
        rounded = weights.to(cached.dtype).float()
        out = out * decay[..., None] + torch.einsum("nkgt,ktd->nkgd", rounded, value[:, step])
        highest = higher
    return (out / total.clamp(min=1e-30)[..., None]).view(count, heads, head_dim)
