"""What a model's layers need to know about the step that they run: one object per step, shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """One step's tokens, packed without padding, on the model's device."""

    input_ids: Tensor  # int32 [num_tokens]
    positions: Tensor  # int32 [num_tokens]
    query_start_loc: Tensor  # int32 [num_reqs + 1] batch index -> first token
    seq_lens: Tensor  # int32 [num_reqs] tokens in the cache after this step
    rows: Tensor  # int32 [num_reqs] batch index -> row of block_table
    block_table: Tensor  # int32 [max_num_seqs, max_blocks] row -> block ids
    kv_cache: Tensor  # [num_blocks, num_kv_heads, num_layers, 2, block_size, head_dim]
