"""What a model's parameters ask of a device.

The CPU's answer is the module `penstock_kernels.cpu.ops`, a GPU's a `penstock_kernels.gpu.ops.GpuOps`. Types that both
share (`PackedWeight`, `QuantWeight`, `ComputeType`) live beside the kernels of the CPU.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from penstock_kernels.cpu.packed_weight import ComputeType, PackedWeight
from penstock_kernels.cpu.quant_weight import QuantWeight


class DeviceOps(Protocol):
    """Operations on one device. Activations are float32 on the CPU, of the model's type on a GPU."""

    def place(self, weight: Tensor) -> Tensor:
        """`weight`, as it was read from a checkpoint, in memory of the device; itself where it is there already."""

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
        """`weight` [N, K], which was placed, in the device's own layout; `interleave_gate`: its rows are [gate; up]."""

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
        out: Tensor | None = None,
    ) -> Tensor:
        """RMSNorm of `x` [M, K] if `norm` [K] is given, the product, then bias, silu(gate) * up, residual: [M, N]."""
