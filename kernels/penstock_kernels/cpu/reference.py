"""The same arithmetic in plain torch: the kernels' reference, and what runs where nothing could be compiled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from penstock_kernels.cpu.packed_weight import ComputeType, CpuWeight
from penstock_kernels.cpu.quant_weight import QuantWeight

ROWS_AT_ONCE = 4096
"""Weight rows that are expanded together: bounds the temporary copy."""
ACTIVATION_GROUP = 32
"""Elements of an activation that share one int8 scale."""
SMALLEST = 1e-30
"""A group of activations below it counts as zero."""


class ReferenceWeight(CpuWeight):
    """A weight kept as it came, [N, K]."""

    __slots__ = ("_bias", "_weight")

    def __init__(
        self, weight: Tensor | QuantWeight, *, compute: ComputeType, bias: Tensor | None, interleave_gate: bool
    ) -> None:
        if isinstance(weight, QuantWeight):
            parts = [weight.data, weight.scale, weight.minimum]
            shape = (weight.out_features, weight.in_features)
        else:
            is_short = compute is ComputeType.BFLOAT16 or weight.dtype is torch.bfloat16
            weight = weight.detach().to(torch.bfloat16 if is_short else torch.float32, copy=True)
            parts = [weight]
            shape = (weight.shape[0], weight.shape[1])
        super().__init__(
            out_features=shape[0],
            in_features=shape[1],
            nbytes=sum(part.numel() * part.element_size() for part in parts),
            compute=compute,
            is_gated=interleave_gate,
        )
        self._weight = weight
        self._bias = None if bias is None else bias.detach().float()

    def linear(
        self,
        x: Tensor,
        norm: Tensor | None = None,
        eps: float = 0.0,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `ops.linear`."""
        if norm is not None:
            x = rms_norm(x, norm, eps)
        parts = [self._matmul(x, begin) for begin in range(0, self.out_features, ROWS_AT_ONCE)]
        result = torch.cat(parts, dim=1)
        if self._bias is not None:
            result += self._bias
        if self.is_gated:
            gate, up = result.chunk(2, dim=1)
            result = functional.silu(gate) * up
        if residual is not None:
            result += residual
        return result if out is None else out.copy_(result)

    def embedding(self, ids: Tensor) -> Tensor:
        """See `ops.embedding`."""
        weight, index = self._weight, ids.long()
        if isinstance(weight, Tensor):
            return weight[index].float()
        rows = QuantWeight(
            bits=weight.bits,
            data=weight.data[index],
            scale=weight.scale[index],
            minimum=weight.minimum[index],
            group=weight.group,
        )
        return rows.dequantize()

    def _matmul(self, x: Tensor, begin: int) -> Tensor:
        """The product with rows [begin, begin + ROWS_AT_ONCE) of the weight."""
        end = min(begin + ROWS_AT_ONCE, self.out_features)
        if isinstance(self._weight, Tensor):
            rounded = x.bfloat16().float() if self.compute is ComputeType.BFLOAT16 else x
            return rounded @ self._weight[begin:end].float().T
        rows = self._weight.rows(begin, end)
        if self.compute is ComputeType.FLOAT32:
            return x @ rows.dequantize().T
        return _integer_matmul(x, rows)


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round `x` [M, K] to integers of at most 127 per group of 32: integers as float32 [M, G, 32] and scales [M, G]."""
    grouped = x.reshape(x.shape[0], -1, ACTIVATION_GROUP)
    largest = grouped.abs().amax(dim=-1)
    inverse = torch.where(largest > SMALLEST, 127.0 / largest, torch.zeros_like(largest))
    return (grouped * inverse[..., None]).round(), largest / 127.0


def _integer_matmul(x: Tensor, weight: QuantWeight) -> Tensor:
    """Integer products per group, exact in float32, then scaled and added in the order of K."""
    integers, scale = quantize_activations(x)
    weights = weight.integers().reshape(weight.out_features, -1, ACTIVATION_GROUP).float()
    repeat = weight.group // ACTIVATION_GROUP
    weight_scale = weight.scale.float().repeat_interleave(repeat, dim=1)
    minimum = weight.minimum.float().repeat_interleave(repeat, dim=1)
    dots = torch.bmm(integers.transpose(0, 1), weights.permute(1, 2, 0))
    sums = integers.sum(dim=-1) * scale
    result = torch.zeros(x.shape[0], weight.out_features)
    for group in range(weights.shape[1]):
        result += dots[group] * (weight_scale[:, group] * scale[:, group, None])
        result += minimum[:, group] * sums[:, group, None]
    return result


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `ops.rms_norm`."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight
