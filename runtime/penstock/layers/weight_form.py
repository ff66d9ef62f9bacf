"""In which form weights are kept, and how weights of different forms are brought together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock_kernels.cpu.packed_weight import ComputeType
from penstock_kernels.cpu.quant_weight import QuantWeight

Weight = Tensor | QuantWeight

GROUP = 32  # what the kernels take; other groups are expanded


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightForm:
    """How unquantised weights are kept. Weights that come quantised keep their own form."""

    compute: ComputeType
    bits: int | None  # quantise to this many bits while loading

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are not quantised."""
        return torch.float32 if self.compute is ComputeType.FLOAT32 else torch.bfloat16


def shape_of(weight: Weight) -> tuple[int, ...]:
    """The shape of the matrix or vector that `weight` stands for."""
    return (weight.out_features, weight.in_features) if isinstance(weight, QuantWeight) else tuple(weight.shape)


def expand(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The weight as plain numbers."""
    return weight.to(dtype) if isinstance(weight, Tensor) else weight.expand(dtype)


def widen(weight: QuantWeight) -> QuantWeight:
    """The same weight with 8 bits; exact."""
    if weight.bits == 8:
        return weight
    return QuantWeight(bits=8, data=weight.integers(), scale=weight.scale, minimum=weight.minimum, group=weight.group)


def stack(parts: Sequence[Weight], form: WeightForm) -> Weight:
    """The rows of all parts, one after the other, in one form.

    Quantised parts stay exactly what they are: 4 bits widen to 8 where some have 8, fp16 scales to fp32. Where a part
    is not quantised, or in groups that the kernels do not take, all become plain numbers of `form.dtype`.
    """
    quantized = [part for part in parts if isinstance(part, QuantWeight) and part.group == GROUP]
    if len(quantized) < len(parts):
        plain = [expand(part, form.dtype) for part in parts]
        return plain[0] if len(plain) == 1 else torch.cat(plain)
    if len(quantized) == 1:
        return quantized[0]
    if len({part.bits for part in quantized}) > 1:
        quantized = [widen(part) for part in quantized]
    scale_type = torch.float16 if all(part.scale.dtype == torch.float16 for part in quantized) else torch.float32
    return QuantWeight(
        bits=quantized[0].bits,
        data=torch.cat([part.data for part in quantized]),
        scale=torch.cat([part.scale.to(scale_type) for part in quantized]),
        minimum=torch.cat([part.minimum.to(scale_type) for part in quantized]),
        group=GROUP,
    )
