"""`--optimize 2`: what lies between an attention and the next projection, compiled by torch.compile.

Inductor sees the matrix products and fuses what lies between them. It sees no further: head norms, rotary positions and
the write into the cache are one kernel of ours already, and attention is no plain torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from penstock.errors import ConfigError
from penstock.layers.between import Batched, GpuLayer
from penstock.layers.decoder_weights import DecoderWeights
from penstock.layers.workspace import DecoderSizes, Workspace
from penstock_kernels.gpu.matvec import MOST_ROWS, Norm

OPTIONS: Mapping[str, bool | int] = MappingProxyType(
    {
        "triton.cudagraphs": False,  # ours capture it
        "triton.autotune_pointwise": False,  # a start measures nothing: it takes as long, and gives the same, each time
        "shape_padding": False,
        "compile_threads": 1,  # no processes beside the worker
    }
)
MESSAGE_LENGTH = 200  # characters of what the compiler said


class FeedForwardWeights(NamedTuple):
    """The arguments of `feed_forward` that differ between layers."""

    output: Tensor  # [hidden, H D]
    output_bias: Tensor | None
    norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 intermediate, hidden]
    gate_up_bias: Tensor | None
    down: Tensor  # [hidden, intermediate]
    down_bias: Tensor | None
    next_norm: Tensor  # [hidden]


def feed_forward(attended: Tensor, hidden: Tensor, normed: Tensor, weights: FeedForwardWeights, eps: float) -> None:
    """From `attended` [T, H D] and the residual stream `hidden` [T, hidden] to that after the MLP, and its norm into
    `normed` [T, hidden].

    Sums are in float32: of two bfloat16 tensors Inductor makes `addmm`, which copies one of them.
    """
    dtype = hidden.dtype
    total = (hidden.float() + linear(attended, weights.output, weights.output_bias)).to(dtype)
    middle = _norm(total, weights.norm, eps).to(dtype)
    gate, up = linear(middle, weights.gate_up, weights.gate_up_bias).float().chunk(2, dim=-1)
    delta = linear((silu(gate) * up).to(dtype), weights.down, weights.down_bias)
    wide = total.float() + delta
    normed.copy_(_norm(wide, weights.next_norm, eps))
    hidden.copy_(wide)  # last: else Inductor keeps it in memory of its own until rows wider than 1024 are normed


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in float32."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()


def intermediate_bytes(sizes: DecoderSizes, num_tokens: int, dtype: torch.dtype) -> int:
    """What compiled code takes for so many tokens at most: all of `feed_forward`'s values at once."""
    width = 4 * sizes.hidden_size + 3 * sizes.intermediate_size  # two products, sum, norm; gate and up, activation
    means = 2 * torch.float32.itemsize
    return num_tokens * (width * dtype.itemsize + means)


class Compiled(Batched):
    """Runs `feed_forward` in place of our kernels, as it is written until `compile` is called.

    One compiled function serves all layers and numbers of rows, except those of `FewRows`. It takes
    `intermediate_bytes` while it runs.
    """

    def __init__(self, weights: DecoderWeights, work: Workspace) -> None:
        super().__init__(weights, work)
        self._weights = [_weights_of(*one) for one in zip(self._layers, self._next_norms, strict=True)]
        self._function, self._eps = feed_forward, weights.shape.eps

    def compile(self) -> None:
        """Compile for more than `MOST_ROWS` rows. Raises `ConfigError` where that cannot be done."""
        from torch._dynamo import mark_dynamic  # these take a second or two, and only who compiles needs them
        from torch._dynamo.exc import TorchDynamoException

        num_tokens = self._work.limits.max_tokens  # what holds for the most, as 64-bit offsets, does for less
        if num_tokens <= MOST_ROWS:
            return
        streams = self._streams(num_tokens)
        for stream in streams:
            mark_dynamic(stream, 0)
        self._function = torch.compile(feed_forward, fullgraph=True, options=dict(OPTIONS))
        try:
            self._function(*streams, self._weights[0], self._eps)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            said = f"{type(cause).__name__}: {cause}".strip().partition("\n")[0][:MESSAGE_LENGTH]
            raise ConfigError("optimize", f"2 (torch.compile) does not work here ({said}); use --optimize 1") from error

    def _feed_forward(self, layer: int, num_tokens: int) -> None:
        self._function(*self._streams(num_tokens), self._weights[layer], self._eps)

    def _streams(self, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Attended, hidden and normed."""
        work = self._work
        return work.attended(num_tokens).flatten(1), work.hidden[:num_tokens], work.normed[:num_tokens]


def _weights_of(layer: GpuLayer, next_norm: Norm) -> FeedForwardWeights:
    assert not layer.output.is_fixed, "products of a fixed order are not compiled"
    return FeedForwardWeights(
        output=layer.output.values,
        output_bias=layer.output.bias,
        norm=layer.mlp_norm.weight,
        gate_up=layer.gate_up.values,
        gate_up_bias=layer.gate_up.bias,
        down=layer.down.values,
        down_bias=layer.down.bias,
        next_norm=next_norm.weight,
    )
