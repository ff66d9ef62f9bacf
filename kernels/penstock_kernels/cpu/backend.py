"""What `ops` asks of an implementation of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from penstock_kernels.cpu import reference, reference_attention
from penstock_kernels.cpu.attention_inputs import AttentionInputs, AttentionShape
from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderPlan, DecoderShape, StepwisePlan
from penstock_kernels.cpu.packed_weight import ComputeType, CpuWeight
from penstock_kernels.cpu.quant_weight import QuantWeight


class Backend(Protocol):
    """One implementation of the kernels; the functions are those of `ops`."""

    @property
    def name(self) -> str:
        """Short name for logs and benchmarks."""

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels run, not torch."""

    def set_num_threads(self, count: int) -> None:
        """Use `count` threads from the next call on, the caller's included."""

    def pack(
        self, weight: Tensor | QuantWeight, *, compute: ComputeType, bias: Tensor | None, interleave_gate: bool
    ) -> CpuWeight:
        """See `ops.pack`."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `ops.rms_norm`."""

    def attention(
        self, qkv: Tensor, kv_cache: Tensor, layer: int, inputs: AttentionInputs, shape: AttentionShape
    ) -> Tensor:
        """See `ops.attention`."""

    def decoder_plan(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> DecoderPlan:
        """See `ops.decoder_plan`."""


class TorchBackend:
    """The kernels in plain torch, for machines without a compiler: the same answers, slowly."""

    name = "torch"
    is_compiled = False

    def set_num_threads(self, count: int) -> None:
        """Set torch's own number of threads."""
        torch.set_num_threads(count)

    def pack(
        self, weight: Tensor | QuantWeight, *, compute: ComputeType, bias: Tensor | None, interleave_gate: bool
    ) -> CpuWeight:
        """See `ops.pack`."""
        return reference.ReferenceWeight(weight, compute=compute, bias=bias, interleave_gate=interleave_gate)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `ops.rms_norm`."""
        return reference.rms_norm(x, weight, eps)

    def attention(
        self, qkv: Tensor, kv_cache: Tensor, layer: int, inputs: AttentionInputs, shape: AttentionShape
    ) -> Tensor:
        """See `ops.attention`."""
        return reference_attention.attention(qkv, kv_cache, layer, inputs, shape)

    def decoder_plan(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> DecoderPlan:
        """See `ops.decoder_plan`."""
        return StepwisePlan(layers, shape, self.attention)
