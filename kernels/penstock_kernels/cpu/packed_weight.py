"""What every backend's packed weight offers to `ops`."""

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


class PackedWeight(ABC):
    """A weight [N, K] in the layout that one backend reads; it owns its memory and never changes."""

    __slots__ = ("compute", "in_features", "is_gated", "nbytes", "out_features")

    def __init__(
        self, *, out_features: int, in_features: int, nbytes: int, compute: ComputeType, is_gated: bool
    ) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self.nbytes = nbytes
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
