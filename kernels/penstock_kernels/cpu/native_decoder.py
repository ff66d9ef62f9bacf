"""Decoder layers in one C call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs
from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderPlan, DecoderShape
from penstock_kernels.cpu.library import Library
from penstock_kernels.cpu.native_attention import cache_struct, step_struct
from penstock_kernels.cpu.native_weight import NativeWeight, require_dense
from penstock_kernels.cpu.packed_weight import PackedWeight, cpu_weight


class LayerStruct(ctypes.Structure):
    """Mirror of `Layer` in csrc/decoder.h."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("qkv", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("output", c_void_p),
        ("mlp_norm", c_void_p),
        ("gate_up", c_void_p),
        ("down", c_void_p),
        ("sliding_window", c_int32),
        ("padding", c_int32),
    )


class DecoderStruct(ctypes.Structure):
    """Mirror of `DecoderCall` in csrc/decoder.h."""

    _fields_ = (
        ("hidden", c_void_p),
        ("wide", c_void_p),
        ("narrow", c_void_p),
        ("layers", c_void_p),
        ("layer_bytes", c_int64),
        ("count", c_int32),
        ("heads", c_int32),
        ("scale", c_float),
        ("eps", c_float),
    )


class NativePlan(DecoderPlan):
    """A plan that the C++ kernels run without coming back to Python between layers."""

    def __init__(self, library: Library, layers: Sequence[DecoderLayer], shape: DecoderShape) -> None:
        """ValueError if the parts of a layer do not fit together."""
        self._layers = list(layers)
        self._shape = shape
        self._structs = (LayerStruct * len(self._layers))(*(_layer_struct(layer) for layer in self._layers))
        self._decoder = library.decoder
        self._hidden = layers[0].qkv.in_features
        self._wide = max(max(layer.qkv.out_features, layer.down.in_features) for layer in self._layers)
        self._narrow = layers[0].output.in_features
        self._qkv = layers[0].qkv.out_features

    def run(
        self, hidden: Tensor, kv_cache: Tensor, inputs: AttentionInputs, first: int = 0, end: int | None = None
    ) -> None:
        """See `DecoderPlan.run`."""
        tokens = hidden.shape[0]
        end = len(self._layers) if end is None else end
        if not 0 <= first < end <= len(self._layers) or end > kv_cache.shape[2]:
            raise ValueError(
                f"layers [{first}, {end}) are not among {len(self._layers)} and {kv_cache.shape[2]} cached"
            )
        require_dense(hidden, tokens, self._hidden)
        step = step_struct(inputs, tokens)
        cache = cache_struct(kv_cache, first)
        if self._qkv != self._narrow + 2 * cache.kv_heads * cache.head_dim:
            raise ValueError(f"{self._qkv} outputs are not {self._narrow} and two of {tuple(kv_cache.shape)}'s heads")
        buffer = torch.empty(tokens * (self._wide + self._narrow))
        call = DecoderStruct(
            hidden.data_ptr(),
            buffer.data_ptr(),
            buffer.data_ptr() + 4 * tokens * self._wide,
            ctypes.addressof(self._structs) + first * ctypes.sizeof(LayerStruct),
            kv_cache.stride(2) * kv_cache.element_size(),
            end - first,
            self._shape.num_heads,
            self._shape.scale,
            self._shape.eps,
        )
        self._decoder(ctypes.addressof(call), ctypes.addressof(step), ctypes.addressof(cache))


def _layer_struct(layer: DecoderLayer) -> LayerStruct:
    """The layer as C reads it; ValueError where shapes do not fit."""
    hidden, narrow, wide = layer.qkv.in_features, layer.output.in_features, layer.down.in_features
    shapes = (
        (layer.output.out_features, hidden),
        (layer.gate_up.in_features, hidden),
        (layer.gate_up.out_features, 2 * wide),
        (layer.down.out_features, hidden),
        (layer.input_norm.shape[0], hidden),
        (layer.mlp_norm.shape[0], hidden),
    )
    if any(found != wanted for found, wanted in shapes) or not cpu_weight(layer.gate_up).is_gated:
        raise ValueError(f"a layer of hidden size {hidden}, {narrow} and {wide} has parts of other sizes: {shapes}")
    norms = (layer.input_norm, layer.mlp_norm, layer.q_norm, layer.k_norm)
    if any(norm is not None and (norm.dtype is not torch.float32 or not norm.is_contiguous()) for norm in norms):
        raise ValueError("norm weights must be dense float32")
    return LayerStruct(
        layer.input_norm.data_ptr(),
        _address(layer.qkv),
        None if layer.q_norm is None else layer.q_norm.data_ptr(),
        None if layer.k_norm is None else layer.k_norm.data_ptr(),
        _address(layer.output),
        layer.mlp_norm.data_ptr(),
        _address(layer.gate_up),
        _address(layer.down),
        layer.sliding_window,
    )


def _address(weight: PackedWeight) -> int:
    """Where the C struct of a packed weight lies."""
    if not isinstance(weight, NativeWeight):
        raise ValueError("a compiled plan needs weights that were packed by the compiled kernels")
    return weight.address
