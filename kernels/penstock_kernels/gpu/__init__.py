"""Kernels for GPUs, in Triton: one file per op, with its reference in plain torch, its kernel and its launch."""

from __future__ import annotations

from penstock_kernels.gpu import (
    advance,
    apply_deltas,
    copy_blocks,
    edit_logits,
    fixed_matmul,
    gated_activation,
    gather_logprobs,
    gather_sampling,
    matvec,
    paged_attention_op,
    penalise,
    prepare_inputs,
    rms_norm,
    rope_kv_write,
    sample_tokens,
)

OPS = (
    apply_deltas.OP,
    prepare_inputs.OP,
    rms_norm.OP,
    rope_kv_write.OP,
    paged_attention_op.OP,
    gated_activation.OP,
    gather_logprobs.OP,
    gather_sampling.OP,
    edit_logits.OP,
    penalise.OP,
    sample_tokens.OP,
    advance.OP,
    copy_blocks.OP,
    fixed_matmul.OP,
    matvec.OP,
)
