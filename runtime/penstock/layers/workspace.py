"""All memory that a model on a GPU writes while it runs, except the KV cache: taken once, so that it can be counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penstock.attention.backend import AttentionHeads

ALIGNMENT = 256  # bytes; what vector loads and matrix products like best


class DecoderSizes(AttentionHeads, Protocol):
    """What of a model the memory depends on; a `ModelSpec` is one."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def intermediate_size(self) -> int:
        """Width of the MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """The largest step."""

    max_tokens: int
    max_requests: int  # and rows of logits at once


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffer:
    """One tensor of the workspace."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return -(-math.prod(self.shape) * self.dtype.itemsize // ALIGNMENT) * ALIGNMENT


class Workspace:
    """The buffers of one step, parts of one allocation; what has the same life shares memory.

    ```
             │ norm, qkv, rope │ attention │ output, norm, gate and up, activation, down │ next layer
    hidden   │▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇│▇▇▇▇▇▇▇▇▇▇▇│▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇│
    wide     │ qkv             │           │               gate and up                   │
    inner    │           query │ query, attended            │ activated                  │
    ```
    """

    def __init__(self, sizes: DecoderSizes, limits: StepLimits, dtype: torch.dtype, device: torch.device) -> None:
        self.limits = limits
        self.num_heads, self.head_dim = sizes.num_heads, sizes.head_dim
        self._memory = torch.zeros(self.num_bytes(sizes, limits, dtype), dtype=torch.uint8, device=device)
        parts, offset = {}, 0
        for name, buffer in _buffers(sizes, limits, dtype).items():
            end = offset + math.prod(buffer.shape) * buffer.dtype.itemsize
            parts[name] = self._memory[offset:end].view(buffer.dtype).view(buffer.shape)
            offset += buffer.num_bytes
        self.ids: Tensor = parts["ids"]  # int32 [tokens]
        self.hidden: Tensor = parts["hidden"]  # [tokens, hidden]
        self.normed: Tensor = parts["normed"]  # [max(tokens, requests), hidden]: also of rows whose logits are wanted
        self.delta: Tensor = parts["delta"]  # [tokens, hidden] what is added to `hidden`
        self._wide, self._inner = parts["wide"], parts["inner"]

    @staticmethod
    def num_bytes(sizes: DecoderSizes, limits: StepLimits, dtype: torch.dtype) -> int:
        """What a workspace takes, before it is taken."""
        return sum(buffer.num_bytes for buffer in _buffers(sizes, limits, dtype).values())

    def wide(self, num_tokens: int, width: int) -> Tensor:
        """[num_tokens, width]: q, k and v, or gate and up."""
        return self._wide[: num_tokens * width].view(num_tokens, width)

    def activated(self, num_tokens: int, width: int) -> Tensor:
        """[num_tokens, width]; overwrites `query` and `attended`."""
        return self._inner[: num_tokens * width].view(num_tokens, width)

    def query(self, num_tokens: int) -> Tensor:
        """[num_tokens, H, D]"""
        return self._heads(0, num_tokens)

    def attended(self, num_tokens: int) -> Tensor:
        """[num_tokens, H, D]"""
        return self._heads(len(self._inner) // 2, num_tokens)

    def _heads(self, offset: int, num_tokens: int) -> Tensor:
        length = num_tokens * self.num_heads * self.head_dim
        return self._inner[offset : offset + length].view(num_tokens, self.num_heads, self.head_dim)


def _buffers(sizes: DecoderSizes, limits: StepLimits, dtype: torch.dtype) -> dict[str, _Buffer]:
    """The tensors of a workspace, in the order in which they lie."""
    tokens, requests, hidden = limits.max_tokens, limits.max_requests, sizes.hidden_size
    query_width = sizes.num_heads * sizes.head_dim
    qkv_width = query_width + 2 * sizes.num_kv_heads * sizes.head_dim

    def buffer(*shape: int, of: torch.dtype = dtype) -> _Buffer:
        return _Buffer(shape=shape, dtype=of)

    half = -(-max(query_width, -(-sizes.intermediate_size // 2)) * tokens // ALIGNMENT)
    return {
        "ids": buffer(tokens, of=torch.int32),
        "hidden": buffer(tokens, hidden),
        "normed": buffer(max(tokens, requests), hidden),
        "delta": buffer(tokens, hidden),
        "wide": buffer(tokens * max(qkv_width, 2 * sizes.intermediate_size)),
        "inner": buffer(2 * ALIGNMENT * half),
    }
