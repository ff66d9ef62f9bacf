"""What a model's blocks ask of a device. The CPU's answer is the module `penstock_kernels.cpu.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderPlan, DecoderShape
from penstock_kernels.cpu.packed_weight import ComputeType, PackedWeight
from penstock_kernels.cpu.quant_weight import QuantWeight


class DeviceOps(Protocol):
    """Fused operations on one device. Activations are float32; every result is a new tensor."""

    def quantize(self, weight: Tensor, bits: int, group: int = 32) -> QuantWeight:
        """Round `weight` [N, K] to 4 or 8 bits with a scale and a minimum for each `group` of K."""

    def pack(
        self,
        weight: Tensor | QuantWeight,
        *,
        compute: ComputeType,
        bias: Tensor | None = None,
        interleave_gate: bool = False,
    ) -> PackedWeight:
        """Copy `weight` [N, K] into the device's own layout; `interleave_gate`: its rows are [gate; up]."""

    def embedding(self, ids: Tensor, w: PackedWeight) -> Tensor:
        """Rows `ids` [T] of the weight: [T, K]."""

    def linear(
        self,
        x: Tensor,
        w: PackedWeight,
        *,
        norm: Tensor | None = None,
        eps: float = 0.0,
        residual: Tensor | None = None,
        silu_mul: bool = False,
    ) -> Tensor:
        """RMSNorm of `x` [M, K] if `norm` [K] is given, the product, then bias, silu(gate) * up, residual: [M, N]."""

    def decoder_plan(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> DecoderPlan:
        """Make whole layers ready to run in one call per step.

        A layer is norm + qkv, attention over the paged cache (with the norms of heads, RoPE and the write of keys and
        values), output + residual, norm + gate and up + silu-mul, down + residual.
        """
