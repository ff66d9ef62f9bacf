"""What a model's layers need to know about the step that they run, and what answers for attention on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penstock_kernels.kv_scales import UNSCALED, KvScales


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """One step's tokens, packed without padding on the CPU, on the model's device; one object for all layers.

    On a GPU there may be more tokens than requests own (the padding of a graph); their slots are `NO_SLOT` or lie in
    the dummy block.
    """

    input_ids: Tensor  # int32 [num_tokens]
    positions: Tensor  # int32 [num_tokens]
    query_start_loc: Tensor  # int32 [num_reqs + 1] batch index -> first token
    seq_lens: Tensor  # int32 [num_reqs] tokens in the cache after this step
    rows: Tensor  # int32 [num_reqs] batch index -> row of block_table
    block_table: Tensor  # int32 [max_num_seqs, max_blocks] row -> block ids
    kv_cache: Tensor  # [num_blocks, num_kv_heads, num_layers, 2, block_size, head_dim]
    slots: Tensor | None = None  # int64 [num_tokens] block id times block size plus offset; the CPU finds them itself
    is_decode: bool = False  # every request has one token


class AttentionHeads(Protocol):
    """What of a model attention depends on; a `ModelSpec` is one."""

    @property
    def num_heads(self) -> int:
        """Of queries."""

    @property
    def num_kv_heads(self) -> int:
        """Of keys and values."""

    @property
    def head_dim(self) -> int:
        """Elements of a head."""

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""

    def window(self, layer: int) -> int:
        """Keys that a query of a layer sees, itself included; 0 for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionNeeds:
    """What a backend is made for."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    windows: tuple[int, ...]  # of each layer; 0: full attention
    device: torch.device
    dtype: torch.dtype  # of queries and results
    kv_dtype: torch.dtype
    block_size: int
    max_requests: int  # of one step
    max_tokens: int  # of one step
    is_deterministic: bool = False  # a request's bits must not depend on the batch around it

    @classmethod
    def of(
        cls,
        model: AttentionHeads,
        *,
        device: torch.device,
        dtype: torch.dtype,
        kv_dtype: torch.dtype,
        block_size: int,
        max_requests: int,
        max_tokens: int,
        is_deterministic: bool = False,
    ) -> AttentionNeeds:
        """What `model` needs for steps of at most so many requests and tokens."""
        return cls(
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            windows=tuple(model.window(layer) for layer in range(model.num_layers)),
            device=device,
            dtype=dtype,
            kv_dtype=kv_dtype,
            block_size=block_size,
            max_requests=max_requests,
            max_tokens=max_tokens,
            is_deterministic=is_deterministic,
        )

    @property
    def scale(self) -> float:
        """Of the scores."""
        return float(self.head_dim**-0.5)


class AttentionBackend(Protocol):
    """Attention over the paged cache, into which the step's keys and values have been written."""

    @property
    def name(self) -> str:
        """Its value of `--attention-backend`."""

    @property
    def num_bytes(self) -> int:
        """Device memory that it holds; nothing more is taken in a step."""

    @property
    def is_capturable(self) -> bool:
        """Whether `prepare` and `attend` of a step in which every request has one token may be captured in a graph."""

    def prepare(self, batch: ForwardBatch) -> None:
        """Get ready for a step, on the device; before the first layer."""

    def attend(self, layer: int, query: Tensor, batch: ForwardBatch, out: Tensor, scales: KvScales = UNSCALED) -> None:
        """Write what `query` [num_tokens, H, D] sees in a layer of the cache into `out` [num_tokens, H, D].

        `scales`: of the layer's keys and values, as they were written. Rows of `out` that no request owns keep what
        they had.
        """
