"""Attention's arguments as the C++ kernels read them."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs

MAX_HEAD_DIM = 512
"""Of the attention kernel."""


class StepStruct(ctypes.Structure):
    """Mirror of `Step` in csrc/attention.h."""

    _fields_ = (
        ("positions", c_void_p),
        ("query_start_loc", c_void_p),
        ("seq_lens", c_void_p),
        ("rows", c_void_p),
        ("block_table", c_void_p),
        ("cos_sin", c_void_p),
        ("tokens", c_int32),
        ("requests", c_int32),
        ("max_rows", c_int32),
        ("max_blocks", c_int32),
        ("max_position", c_int32),
        ("rotary_dim", c_int32),
    )


class CacheStruct(ctypes.Structure):
    """Mirror of `Cache` in csrc/attention.h."""

    _fields_ = (
        ("data", c_void_p),
        ("block_stride", c_int64),
        ("head_stride", c_int64),
        ("plane_stride", c_int64),
        ("slot_stride", c_int64),
        ("is_float", c_int32),
        ("num_blocks", c_int32),
        ("kv_heads", c_int32),
        ("block_size", c_int32),
        ("head_dim", c_int32),
    )


class AttentionStruct(ctypes.Structure):
    """Mirror of `AttentionCall` in csrc/attention.h."""

    _fields_ = (
        ("qkv", c_void_p),
        ("out", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("heads", c_int32),
        ("sliding_window", c_int32),
        ("scale", c_float),
        ("eps", c_float),
    )


def step_struct(inputs: AttentionInputs, tokens: int) -> StepStruct:
    """The step as the kernels read it; ValueError where a tensor is not what `AttentionInputs` says."""
    requests = inputs.rows.shape[0]
    lengths = (tokens, requests + 1, requests, requests)
    vectors = (inputs.positions, inputs.query_start_loc, inputs.seq_lens, inputs.rows)
    for vector, length in zip(vectors, lengths, strict=True):
        if vector.dtype is not torch.int32 or vector.shape != (length,) or not vector.is_contiguous():
            raise ValueError(f"expected dense int32 [{length}], not {vector.dtype} {tuple(vector.shape)}")
    table, cos_sin = inputs.block_table, inputs.cos_sin
    if table.dtype is not torch.int32 or cos_sin.dtype is not torch.float32:
        raise ValueError(f"expected a block table of int32 and float32 cosines, not {table.dtype} and {cos_sin.dtype}")
    if not (table.is_contiguous() and cos_sin.is_contiguous()):
        raise ValueError("the block table and the cosines must be dense")
    pointers = (tensor.data_ptr() for tensor in (*vectors, table, cos_sin))
    return StepStruct(*pointers, tokens, requests, *table.shape, *cos_sin.shape)


def cache_struct(kv_cache: Tensor, layer: int) -> CacheStruct:
    """One layer of the cache [num_blocks, Hkv, L, 2, block_size, D] as the kernels read it, else ValueError."""
    blocks, kv_heads, layers, _, block_size, head_dim = kv_cache.shape
    block_stride, head_stride, layer_stride, plane_stride, slot_stride, element_stride = kv_cache.stride()
    if kv_cache.dtype not in (torch.float32, torch.bfloat16) or element_stride != 1 or head_dim > MAX_HEAD_DIM:
        raise ValueError(f"a cache of {kv_cache.dtype} {tuple(kv_cache.shape)} {kv_cache.stride()} is not supported")
    if not 0 <= layer < layers:
        raise ValueError(f"there is no layer {layer} among {layers}")
    return CacheStruct(
        kv_cache.data_ptr() + layer * layer_stride * kv_cache.element_size(),
        block_stride,
        head_stride,
        plane_stride,
        slot_stride,
        kv_cache.dtype is torch.float32,
        blocks,
        kv_heads,
        block_size,
        head_dim,
    )
