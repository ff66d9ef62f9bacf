"""The kernels in C++."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs, AttentionShape
from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderPlan, DecoderShape
from penstock_kernels.cpu.library import Library
from penstock_kernels.cpu.memory import Arena
from penstock_kernels.cpu.native_attention import AttentionStruct, cache_struct, step_struct
from penstock_kernels.cpu.native_decoder import NativePlan
from penstock_kernels.cpu.native_weight import NativeWeight, require_dense
from penstock_kernels.cpu.packed_weight import ComputeType, CpuWeight
from penstock_kernels.cpu.quant_weight import QuantWeight


class NativeBackend:
    """The kernels of one compiled variant."""

    is_compiled = True

    def __init__(self, library: Library) -> None:
        self._library = library
        self._arena = Arena()
        self.name = f"c++ {library.variant}"

    def set_num_threads(self, count: int) -> None:
        """See `ops.set_num_threads`."""
        self._library.set_num_threads(count)

    def pack(
        self, weight: Tensor | QuantWeight, *, compute: ComputeType, bias: Tensor | None, interleave_gate: bool
    ) -> CpuWeight:
        """See `ops.pack`."""
        return NativeWeight(
            self._library, self._arena, weight, compute=compute, bias=bias, interleave_gate=interleave_gate
        )

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `ops.rms_norm`."""
        x = x.contiguous()
        out = torch.empty_like(x)
        self._library.rms_norm(x.data_ptr(), weight.data_ptr(), eps, x.shape[0], x.shape[1], out.data_ptr())
        return out

    def attention(
        self, qkv: Tensor, kv_cache: Tensor, layer: int, inputs: AttentionInputs, shape: AttentionShape
    ) -> Tensor:
        """See `ops.attention`."""
        step = step_struct(inputs, qkv.shape[0])
        cache = cache_struct(kv_cache, layer)
        width = (shape.num_heads + 2 * cache.kv_heads) * cache.head_dim
        require_dense(qkv, qkv.shape[0], width)
        out = torch.empty(qkv.shape[0], shape.num_heads * cache.head_dim)
        call = AttentionStruct(
            qkv.data_ptr(),
            out.data_ptr(),
            None if shape.q_norm is None else shape.q_norm.data_ptr(),
            None if shape.k_norm is None else shape.k_norm.data_ptr(),
            shape.num_heads,
            shape.sliding_window,
            shape.scale,
            shape.eps,
        )
        self._library.attention(ctypes.addressof(call), ctypes.addressof(step), ctypes.addressof(cache))
        return out

    def decoder_plan(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> DecoderPlan:
        """See `ops.decoder_plan`."""
        return NativePlan(self._library, layers, shape)
