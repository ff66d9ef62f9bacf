"""Where a token's keys and values lie in the all-layer block layout, for every op that reads or writes them.

`kv_cache` is [num_blocks, num_kv_heads, num_layers, 2, block_size, head_dim]: a block holds all layers, so that one
copy moves it to another pod. Its elements are bfloat16, float16, float32 or float8_e4m3fn with one scale each for keys
and values.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_BLOCK = -1  # of a block table, where a row has no block (yet)
NO_SLOT = -1  # of a token whose keys and values are not kept: padding

LARGEST_FP8 = torch.finfo(torch.float8_e4m3fn).max


def strides_of(kv_cache: Tensor, layer: int) -> dict[str, Tensor | int]:
    """The arguments that each kernel takes of the cache, by name: one layer's part and its strides in elements."""
    part = kv_cache[:, :, layer]
    return {
        "kv_ptr": part,
        "num_blocks": part.shape[0],
        "block_stride": part.stride(0),
        "head_stride": part.stride(1),
        "plane_stride": part.stride(2),
    }


def quantised(values: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """What a cache of that type keeps of `values`."""
    if dtype != torch.float8_e4m3fn:
        return values.to(dtype)
    return (values.float() / scale).clamp(-LARGEST_FP8, LARGEST_FP8).to(dtype)


@triton.jit
def to_cache(values, scale, element: tl.constexpr, IS_FP8: tl.constexpr):
    """`values` in the type of the cache; float8 saturates instead of becoming NaN, and NaN stays NaN."""
    if IS_FP8:
        values = tl.maximum(values.to(tl.float32) / scale, -448.0, propagate_nan=tl.PropagateNan.ALL)
        values = tl.minimum(values, 448.0, propagate_nan=tl.PropagateNan.ALL)
    return values.to(element)
