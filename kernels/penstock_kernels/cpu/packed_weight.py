"""A weight as a device reads it, and what every backend of the CPU offers `ops` of it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod

from torch import Tensor


class ComputeType(enum.StrEnum):
    """How float32 activations meet the weights."""

    FLOAT32 = "float32"
    """Every product in float32; quantised weights are expanded exactly."""
    BFLOAT16 = "bfloat16"
    """Activations are rounded: to bfloat16 for float weights, to int8 per group of 32 for quantised ones."""


class PackedWeight:
    """A weight [N, K] in the layout that one backend reads; it owns its memory and never changes."""

    __slots__ = ("in_features", "nbytes", "out_features")

    def __init__(self, *, out_features: int, in_features: int, nbytes: int) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self.nbytes = nbytes


class CpuWeight(PackedWeight, ABC):
    """What `ops` multiplies with."""

    __slots__ = ("compute", "is_gated")

    def __init__(
        self, *, out_features: int, in_features: int, nbytes: int, compute: ComputeType, is_gated: bool
    ) -> None:
        super().__init__(out_features=out_features, in_features=in_features, nbytes=nbytes)
        self.compute = compute
        self.is_gated = is_gated

    @abstractmethod
    def linear(
        self,
        x: Tensor,
        norm: Tensor | None = None,
        eps: float = 0.0,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """`ops.linear` for this weight."""

    @abstractmethod
    def embedding(self, ids: Tensor) -> Tensor:
        """`ops.embedding` for this weight."""


def cpu_weight(weight: PackedWeight) -> CpuWeight:
    """What `ops.pack` packed."""
    assert isinstance(weight, CpuWeight), f"a weight of {type(weight).__name__} on a CPU"
    return weight
