"""Rotary positions for queries and keys, and the write of keys and values into the cache, in one pass over `qkv`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.kv_layout import NO_SLOT, quantised, strides_of, to_cache
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op
from penstock_kernels.kv_scales import UNSCALED, KvScales


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNorms:
    """RMSNorms of each head before the rotation, as Qwen3 has them."""

    query: Tensor  # [D]
    key: Tensor  # [D]
    eps: float


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first elements of each head of `x` [T, H, D], halves apart; `cos` and `sin` [T, rotary_dim / 2]."""
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


@triton.jit
def rope_kv_write_kernel(
    qkv_ptr,
    query_ptr,
    positions_ptr,
    slots_ptr,
    cos_sin_ptr,
    query_norm_ptr,
    key_norm_ptr,
    kv_ptr,
    num_blocks,
    block_stride,
    head_stride,
    plane_stride,
    num_positions,
    eps,
    key_scale,
    value_scale,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_NORMS: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """One program per token and head: queries first, then keys, then values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dim = tl.arange(0, BLOCK_D)
    inside = dim < HEAD_DIM
    row = qkv_ptr + token * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM + head * HEAD_DIM
    x = tl.load(row + dim, mask=inside, other=0.0).to(tl.float32)
    slot = tl.load(slots_ptr + token)
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    is_kept = inside & (slot >= 0) & (block < num_blocks)
    place = kv_ptr + block * block_stride + offset * HEAD_DIM + dim
    element = kv_ptr.dtype.element_ty
    if head >= NUM_HEADS + NUM_KV_HEADS:
        kv_head = head - NUM_HEADS - NUM_KV_HEADS
        value = to_cache(x, value_scale, element, IS_FP8)
        tl.store(place + kv_head.to(tl.int64) * head_stride + plane_stride, value, mask=is_kept)
    else:
        is_query = head < NUM_HEADS
        partner = tl.where(dim < HALF, dim + HALF, dim - HALF)  # of a rotated element
        is_rotated = dim < 2 * HALF
        other = tl.load(row + partner, mask=inside & is_rotated, other=0.0).to(tl.float32)
        if HAS_NORMS:
            norm_ptr = tl.where(is_query, query_norm_ptr, key_norm_ptr)
            scale = tl.rsqrt(tl.sum(x * x) / HEAD_DIM + eps)
            x *= scale * tl.load(norm_ptr + dim, mask=inside, other=0.0).to(tl.float32)
            other *= scale * tl.load(norm_ptr + partner, mask=inside & is_rotated, other=0.0).to(tl.float32)
        position = tl.minimum(tl.maximum(tl.load(positions_ptr + token), 0), num_positions - 1).to(tl.int64)
        angle = tl.where(dim < HALF, dim, dim - HALF)
        angles = cos_sin_ptr + position * 2 * HALF + angle
        cos = tl.load(angles, mask=is_rotated, other=1.0)
        sin = tl.load(angles + HALF, mask=is_rotated, other=0.0)
        x = x * cos + tl.where(dim < HALF, -other, other) * sin
        if is_query:
            out = query_ptr + (token * NUM_HEADS + head) * HEAD_DIM + dim
            tl.store(out, x.to(query_ptr.dtype.element_ty), mask=inside)
        else:
            kv_head = head - NUM_HEADS
            key = to_cache(x, key_scale, element, IS_FP8)
            tl.store(place + kv_head.to(tl.int64) * head_stride, key, mask=is_kept)


def rope_kv_write(
    qkv: Tensor,
    kv_cache: Tensor,
    layer: int,
    *,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    query: Tensor,
    norms: HeadNorms | None = None,
    scales: KvScales = UNSCALED,
) -> Launch:
    """Write rotated queries into `query` [T, H, D], and keys and values into the cache at `slots`.

    `qkv` [T, (H + 2 Hkv) D]; `positions` int32 [T]; `slots` int64 [T], each block id times block size plus offset, or
    `NO_SLOT`; `cos_sin` float32 [P, rotary_dim], cosines first. A slot outside the cache is not written.
    """
    tokens, num_heads, head_dim = query.shape
    num_kv_heads, block_size = kv_cache.shape[1], kv_cache.shape[4]
    return Launch(
        kernel=rope_kv_write_kernel,
        grid=(tokens, num_heads + 2 * num_kv_heads),
        args={
            "qkv_ptr": qkv,
            "query_ptr": query,
            "positions_ptr": positions,
            "slots_ptr": slots,
            "cos_sin_ptr": cos_sin,
            "query_norm_ptr": None if norms is None else norms.query,
            "key_norm_ptr": None if norms is None else norms.key,
            **strides_of(kv_cache, layer),
            "num_positions": cos_sin.shape[0],
            "eps": 0.0 if norms is None else norms.eps,
            "key_scale": scales.key,
            "value_scale": scales.value,
        },
        constants={
            "NUM_HEADS": num_heads,
            "NUM_KV_HEADS": num_kv_heads,
            "HEAD_DIM": head_dim,
            "HALF": cos_sin.shape[1] // 2,
            "BLOCK_SIZE": block_size,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "HAS_NORMS": norms is not None,
            "IS_FP8": kv_cache.dtype == torch.float8_e4m3fn,
        },
        num_warps=1,
    )


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    heads, kv_heads, head_dim, rotary_dim, block_size, has_norms, is_fp8 = (
        case.parameters[name]
        for name in ("heads", "kv_heads", "head_dim", "rotary_dim", "block_size", "has_norms", "is_fp8")
    )
    tokens, num_blocks, device = 7, 5, generator.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    slots = torch.randperm(num_blocks * block_size, generator=generator, device=device)[:tokens]
    slots[2], slots[4] = NO_SLOT, num_blocks * block_size + 3  # padding, and a broken id
    angles = normal(32, rotary_dim // 2)
    return {
        "qkv": normal(tokens, (heads + 2 * kv_heads) * head_dim).to(dtype),
        "positions": torch.randint(0, 32, (tokens,), generator=generator, device=device, dtype=torch.int32),
        "slots": slots,
        "cos_sin": torch.cat((angles.cos(), angles.sin()), dim=1),
        "norms": HeadNorms(query=normal(head_dim).to(dtype), key=normal(head_dim).to(dtype), eps=1e-6)
        if has_norms
        else None,
        "scales": KvScales(key=0.5, value=0.25) if is_fp8 else UNSCALED,
        "query": torch.empty(tokens, heads, head_dim, dtype=dtype, device=device),
        "kv_cache": torch.empty(
            num_blocks,
            kv_heads,
            3,
            2,
            block_size,
            head_dim,
            dtype=torch.float8_e4m3fn if is_fp8 else dtype,
            device=device,
        ),
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    return (
        rope_kv_write(
            inputs["qkv"],
            inputs["kv_cache"],
            1,
            positions=inputs["positions"],
            slots=inputs["slots"],
            cos_sin=inputs["cos_sin"],
            query=inputs["query"],
            norms=inputs["norms"],
            scales=inputs["scales"],
        ),
    )


def reference(inputs: Inputs) -> dict[str, Tensor]:
    """See `rope_kv_write`; `kv_cache` as it is afterwards, NaN where nothing was written."""
    qkv, cache, norms, scales = inputs["qkv"], inputs["kv_cache"], inputs["norms"], inputs["scales"]
    heads, head_dim = inputs["query"].shape[1:]
    num_blocks, kv_heads, _, _, block_size, _ = cache.shape
    query, key, value = qkv.view(len(qkv), -1, head_dim).split((heads, kv_heads, kv_heads), dim=1)
    if norms is not None:
        query, key = (
            torch.nn.functional.rms_norm(x, (head_dim,), weight.to(x.dtype), norms.eps)
            for x, weight in ((query, norms.query), (key, norms.key))
        )
    cos, sin = inputs["cos_sin"].to(qkv.dtype)[inputs["positions"].long()].chunk(2, dim=1)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    written = torch.full(cache.shape, torch.nan, dtype=qkv.dtype, device=qkv.device)
    for token, slot in enumerate(inputs["slots"].tolist()):
        if 0 <= slot < num_blocks * block_size:
            block, offset = divmod(slot, block_size)
            for plane, (x, scale) in enumerate(((key, scales.key), (value, scales.value))):
                written[block, :, 1, plane, offset] = quantised(x[token], scale, cache.dtype).to(qkv.dtype)
    return {"query": query, "kv_cache": written}


OP = Op(
    name="rope_kv_write",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=reference,
    outputs=("query", "kv_cache"),
    cases=tuple(
        Case(
            name=name,
            parameters={
                "heads": heads,
                "kv_heads": kv_heads,
                "head_dim": head_dim,
                "rotary_dim": rotary_dim,
                "block_size": block_size,
                "has_norms": has_norms,
                "is_fp8": is_fp8,
            },
        )
        for name, heads, kv_heads, head_dim, rotary_dim, block_size, has_norms, is_fp8 in (
            ("gqa", 6, 2, 64, 64, 16, False, False),
            ("head-norms", 4, 2, 128, 128, 32, True, False),
            ("part-of-the-head", 2, 2, 80, 32, 16, False, False),
            ("float8", 4, 1, 64, 64, 16, True, True),
        )
    ),
)
