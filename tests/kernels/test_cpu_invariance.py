"""A row's bits depend on that row alone: not on its batch, its chunk, or the number of threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from penstock_kernels.cpu.attention_inputs import AttentionShape
from penstock_kernels.cpu.ops import ComputeType, quantize

WEIGHTS = {
    "float32": lambda weight: weight,
    "bfloat16": torch.Tensor.bfloat16,
    "int8": lambda weight: quantize(weight, 8),
    "int4": lambda weight: quantize(weight, 4),
}


@pytest.mark.parametrize("compute", list(ComputeType))
@pytest.mark.parametrize("kind", WEIGHTS)
def test_linear_gives_a_row_the_same_bits_in_every_batch_and_with_any_threads(compiled, kind, compute):
    packed = compiled.pack(WEIGHTS[kind](torch.randn(100, 160)), compute=compute, bias=None, interleave_gate=True)
    x, norm = torch.randn(200, 160), torch.rand(160)
    alone = torch.cat([packed.linear(row[None], norm, 1e-5) for row in x])
    for count in (2, 3, 4, 5, 7, 9, 11, 13, 16, 17, 40, 200):
        assert torch.equal(packed.linear(x[:count].contiguous(), norm, 1e-5), alone[:count]), count
    for threads in (1, 3, 2):
        compiled.set_num_threads(threads)
        assert torch.equal(packed.linear(x, norm, 1e-5), alone), threads


@pytest.mark.parametrize("window", [0, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_gives_a_token_the_same_bits_in_every_chunk_and_batch(compiled, build_inputs, dtype, window):
    length, other = 150, 70
    whole = build_inputs((length, other), (length, other), 16, 64)
    shape = AttentionShape(num_heads=6, scale=0.125, sliding_window=window)
    qkv = torch.randn(length + other, 10 * 64)
    empty = torch.zeros(whole.block_table.numel(), 2, 2, 2, 16, 64, dtype=dtype)
    expected = compiled.attention(qkv, empty.clone(), 1, whole, shape)[:length]
    for sizes in ((1,) * length, (7, 64, 1, 40, 38), (100, 50)):
        cache, done, parts = empty.clone(), 0, []
        for size in sizes:
            step = dataclasses.replace(
                whole,
                positions=torch.arange(done, done + size, dtype=torch.int32),
                query_start_loc=torch.tensor([0, size], dtype=torch.int32),
                seq_lens=torch.tensor([done + size], dtype=torch.int32),
                rows=whole.rows[:1],
            )
            parts.append(compiled.attention(qkv[done : done + size], cache, 1, step, shape))
            done += size
        assert torch.equal(torch.cat(parts), expected), sizes[:3]
    for threads in (1, 3, 2):
        compiled.set_num_threads(threads)
        assert torch.equal(compiled.attention(qkv, empty.clone(), 1, whole, shape)[:length], expected), threads
