"""Whole decoder layers in one call: what a model of the usual shape uses in place of the small functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs, AttentionShape
from penstock_kernels.cpu.packed_weight import PackedWeight, cpu_weight

Attention = Callable[[Tensor, Tensor, int, AttentionInputs, AttentionShape], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """The weights of one pre-norm decoder layer with a gated MLP; norms are float32."""

    input_norm: Tensor
    """[hidden]"""
    qkv: PackedWeight
    """[(Hq + 2 Hkv) * D, hidden]"""
    output: PackedWeight
    """[hidden, Hq * D]"""
    mlp_norm: Tensor
    """[hidden]"""
    gate_up: PackedWeight
    """[2 * ffn, hidden], packed with `interleave_gate`."""
    down: PackedWeight
    """[hidden, ffn]"""
    q_norm: Tensor | None = None
    """[D] or None."""
    k_norm: Tensor | None = None
    """[D] or None."""
    sliding_window: int = 0
    """Newest keys that a query sees; 0 for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """What all layers of a decoder share."""

    num_heads: int
    scale: float
    """Of the attention scores."""
    eps: float
    """Of every RMSNorm."""


class DecoderPlan(ABC):
    """Layers that were made ready once and run in every step."""

    @abstractmethod
    def run(
        self, hidden: Tensor, kv_cache: Tensor, inputs: AttentionInputs, first: int = 0, end: int | None = None
    ) -> None:
        """Turn float32 `hidden` [T, hidden] into what layers [first, end) make of it: the bits of the small functions.

        Layer i uses layer i of `kv_cache` [num_blocks, Hkv, L, 2, block_size, D].
        """


class StepwisePlan(DecoderPlan):
    """A plan that calls the small functions one by one."""

    def __init__(self, layers: Sequence[DecoderLayer], shape: DecoderShape, attention: Attention) -> None:
        self._layers = list(layers)
        self._shape = shape
        self._attention = attention

    def run(
        self, hidden: Tensor, kv_cache: Tensor, inputs: AttentionInputs, first: int = 0, end: int | None = None
    ) -> None:
        """See `DecoderPlan.run`."""
        eps = self._shape.eps
        for index, layer in enumerate(self._layers[first:end], first):
            shape = AttentionShape(
                num_heads=self._shape.num_heads,
                scale=self._shape.scale,
                q_norm=layer.q_norm,
                k_norm=layer.k_norm,
                eps=eps,
                sliding_window=layer.sliding_window,
            )
            qkv = cpu_weight(layer.qkv).linear(hidden, layer.input_norm, eps)
            attended = self._attention(qkv, kv_cache, index, inputs, shape)
            cpu_weight(layer.output).linear(attended, residual=hidden, out=hidden)
            wide = cpu_weight(layer.gate_up).linear(hidden, layer.mlp_norm, eps)
            cpu_weight(layer.down).linear(wide, residual=hidden, out=hidden)
