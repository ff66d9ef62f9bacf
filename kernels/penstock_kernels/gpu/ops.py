"""The operations of a GPU: activations are of the model's type, and ids are not checked but kept inside."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock_kernels.cpu.packed_weight import ComputeType, PackedWeight
from penstock_kernels.cpu.quant_weight import QuantWeight, quantize
from penstock_kernels.gpu.dense_weight import DenseWeight


class GpuOps:
    """What a model's blocks ask of one device, with weights and activations of one type.

    `is_deterministic`: the bits of a row do not depend on the rows around it.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, is_deterministic: bool = False) -> None:
        self.device, self.dtype, self.is_deterministic = device, dtype, is_deterministic

    def place(self, weight: Tensor) -> Tensor:
        """`weight` on the device, in the type that it has."""
        return weight.to(self.device)

    def quantize(self, weight: Tensor, bits: int, group: int = 32) -> QuantWeight:
        """See `cpu.quant_weight.quantize`."""
        return quantize(weight, bits, group)

    def pack(
        self,
        weight: Tensor | QuantWeight,
        *,
        compute: ComputeType,
        bias: Tensor | None = None,
        interleave_gate: bool = False,
    ) -> DenseWeight:
        """`weight` [N, K], which is on the device; quantised ones are expanded. A gate's rows stay [gate; up]."""
        values = weight.expand(self.dtype) if isinstance(weight, QuantWeight) else weight.to(self.dtype)
        return DenseWeight(
            values.contiguous(),
            compute=compute,
            bias=None if bias is None else bias.to(self.dtype),
            is_gated=interleave_gate,
            is_fixed=self.is_deterministic,
        )

    def embedding(self, ids: Tensor, w: PackedWeight) -> Tensor:
        """Rows `ids` [T] of the weight: [T, K]; an id without a row takes the nearest."""
        return w.embedding(ids)

    def linear(
        self,
        x: Tensor,
        w: PackedWeight,
        *,
        norm: Tensor | None = None,
        eps: float = 0.0,
        residual: Tensor | None = None,
        silu_mul: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """RMSNorm of `x` [M, K] if `norm` [K] is given, the product, then bias, silu(gate) * up, residual: [M, N]."""
        assert silu_mul == w.is_gated, f"silu_mul is {silu_mul}, the weight was packed with {w.is_gated}"
        return w.linear(x, norm, eps, residual, out)
