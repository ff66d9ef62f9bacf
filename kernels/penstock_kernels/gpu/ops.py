"""The operations of a GPU: activations are of the model's type, and ids are not checked but kept inside."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock_kernels.cpu.packed_weight import ComputeType
from penstock_kernels.cpu.quant_weight import QuantWeight
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

    def pack(
        self,
        weight: Tensor | QuantWeight,
        *,
        compute: ComputeType,
        bias: Tensor | None = None,
        interleave_gate: bool = False,
    ) -> DenseWeight:
        """`weight` [N, K], which is on the device; quantised ones are expanded. A gate's rows stay [gate; up], and
        products are in the type of activations, whatever `compute` says."""
        values = weight.expand(self.dtype) if isinstance(weight, QuantWeight) else weight.to(self.dtype)
        return DenseWeight(
            values.contiguous(),
            bias=None if bias is None else bias.to(self.dtype),
            is_fixed=self.is_deterministic,
        )
