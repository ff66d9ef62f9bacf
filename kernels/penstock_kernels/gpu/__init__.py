"""Kernels for GPUs, in Triton: one file per op, with its reference in plain torch, its kernel and its launch."""

from __future__ import annotations

from penstock_kernels.gpu import (
    copy_blocks,
    gated_activation,
    gather_logprobs,
    paged_attention_op,
    prepare_inputs,
    rms_norm,
    rope_kv_write,
    sample_tokens,
)

OPS = (
    prepare_inputs.OP,
    rms_norm.OP,
    rope_kv_write.OP,
    paged_attention_op.OP,
    gated_activation.OP,
    gather_logprobs.OP,
    sample_tokens.OP,
    copy_blocks.OP,
)
