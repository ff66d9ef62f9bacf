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
    """How weights come to one device."""

    def place(self, weight: Tensor) -> Tensor:
        """`weight`, as it was read from a checkpoint, in memory of the device; itself where it is there already."""

    def pack(
        self,
        weight: Tensor | QuantWeight,
        *,
        compute: ComputeType,
        bias: Tensor | None = None,
        interleave_gate: bool = False,
    ) -> PackedWeight:
        """`weight` [N, K], which was placed, in the device's own layout; `interleave_gate`: its rows are [gate; up]."""
