"""What attention reads beside the tensors it works on: of the step and of the model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInputs:
    """Which tokens of which requests a step holds and where their cache lies; one per step, shared by all layers."""

    positions: Tensor
    """int32 [T]: position of each token, for the rotation."""
    query_start_loc: Tensor
    """int32 [R + 1]: batch index -> its first token in this step."""
    seq_lens: Tensor
    """int32 [R]: tokens in the cache after this step, this step's included."""
    rows: Tensor
    """int32 [R]: batch index -> row of the block table."""
    block_table: Tensor
    """int32 [max_rows, max_blocks]: row -> ids of its blocks."""
    cos_sin: Tensor
    """float32 [max_position, rotary_dim]: the cosines of a position, then its sines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What attention needs to know of the model."""

    num_heads: int
    scale: float
    q_norm: Tensor | None = None
    """float32 [D]: weight of the RMSNorm of each query head, if any."""
    k_norm: Tensor | None = None
    """float32 [D]: weight of the RMSNorm of each key head, if any."""
    eps: float = 0.0
    sliding_window: int = 0
    """Newest keys that a query sees, itself included; 0 for all."""
