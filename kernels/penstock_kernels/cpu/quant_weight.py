"""Group-wise quantised weights in the neutral form in which they lie on disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_A_TIME = 4096  # so that expanding a vocabulary needs little memory besides the result


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantWeight:
    """A weight [N, K] as small unsigned integers: `w = scale * u + minimum`, each group along K with its own."""

    bits: int
    """4 or 8."""
    data: Tensor
    """uint8 [N, K] for 8 bits; [N, K // 2] for 4 bits, element 2i in the low nibble and 2i + 1 in the high one."""
    scale: Tensor
    """[N, K // group], float16 or float32."""
    minimum: Tensor
    """Shape and dtype of `scale`."""
    group: int
    """Elements along K that share one scale: a multiple of 32."""

    @property
    def out_features(self) -> int:
        """N."""
        return self.data.shape[0]

    @property
    def in_features(self) -> int:
        """K."""
        return self.data.shape[1] * (2 if self.bits == 4 else 1)

    def integers(self) -> Tensor:
        """The unpacked integers: uint8 [N, K]."""
        if self.bits == 8:
            return self.data
        return torch.stack((self.data & 15, self.data >> 4), dim=-1).flatten(1)

    def rows(self, begin: int, end: int) -> QuantWeight:
        """Rows [begin, end) as views."""
        part = slice(begin, end)
        return QuantWeight(
            bits=self.bits,
            data=self.data[part],
            scale=self.scale[part],
            minimum=self.minimum[part],
            group=self.group,
        )

    def expand(self, dtype: torch.dtype) -> Tensor:
        """`dequantize` in another type, [N, K], a few rows at a time."""
        expanded = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.data.device)
        for begin in range(0, self.out_features, ROWS_AT_A_TIME):
            end = min(begin + ROWS_AT_A_TIME, self.out_features)
            expanded[begin:end] = self.rows(begin, end).dequantize()
        return expanded

    def dequantize(self) -> Tensor:
        """The weight that the integers stand for: float32 [N, K]."""
        grouped = self.integers().reshape(self.out_features, -1, self.group).float()
        return torch.addcmul(self.minimum.float()[..., None], grouped, self.scale.float()[..., None]).flatten(1)


def quantize(weight: Tensor, bits: int, group: int = 32) -> QuantWeight:
    """Round `weight` [N, K] to the nearest of 2^bits values between each group's minimum and maximum.

    Raises ValueError when bits is neither 4 nor 8 or K is no multiple of the group.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, not {bits}")
    if weight.dim() != 2 or weight.shape[1] % group:
        raise ValueError(f"the weight's shape {tuple(weight.shape)} has no second dimension that {group} divides")
    grouped = weight.float().reshape(weight.shape[0], -1, group)
    low, high = grouped.aminmax(dim=-1)
    minimum = low.half()
    scale = ((high - minimum.float()) / (2**bits - 1)).half()
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
    steps = (grouped - minimum.float()[..., None]) / divisor[..., None]
    integers = steps.round_().clamp_(0, 2**bits - 1).to(torch.uint8).flatten(1)
    data = integers if bits == 8 else integers[:, 0::2] | (integers[:, 1::2] << 4)
    return QuantWeight(bits=bits, data=data.contiguous(), scale=scale, minimum=minimum, group=group)
