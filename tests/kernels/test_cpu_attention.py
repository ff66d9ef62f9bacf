"""Paged attention against plain float32 torch, and what it must leave alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from penstock_kernels.cpu import reference_attention
from penstock_kernels.cpu.attention_inputs import AttentionShape

LAYER = 1
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
CASES = ((9, 3, 64, 16, 0), (4, 4, 16, 4, 0), (6, 2, 40, 7, 5), (8, 1, 128, 32, 100), (2, 2, 8, 16, 0))
"""Heads, KV heads, head size, block size, window."""
COUNTS, LENGTHS = (3, 1, 70), (150, 40, 70)


def build_cache(blocks, kv_heads, block_size, head_dim, dtype):
    """A cache [num_blocks, Hkv, L, 2, block_size, D] that is full of NaN."""
    return torch.full((blocks, kv_heads, 3, 2, block_size, head_dim), float("nan"), dtype=dtype)


def fill_history(cache, inputs, counts):
    """Random keys and values for the tokens before this step."""
    block_size = cache.shape[4]
    for index, row in enumerate(inputs.rows.tolist()):
        for token in range(int(inputs.seq_lens[index]) - counts[index]):
            block = int(inputs.block_table[row, token // block_size])
            slot = cache[block, :, LAYER, :, token % block_size]
            slot.copy_(torch.randn(slot.shape))


def expected_attention(qkv, cache, inputs, shape):
    """One request after the other, without pages: the textbook."""
    kv_heads, head_dim, block_size = cache.shape[1], cache.shape[5], cache.shape[4]
    heads = shape.num_heads
    q, k, v = qkv.view(qkv.shape[0], -1, head_dim).tensor_split((heads, heads + kv_heads), dim=1)
    if shape.q_norm is not None:
        q, k = (functional.rms_norm(a, (head_dim,), w, shape.eps) for a, w in ((q, shape.q_norm), (k, shape.k_norm)))
    q, k = (reference_attention.rotate(part, inputs.positions, inputs.cos_sin) for part in (q, k))
    out = []
    for index, row in enumerate(inputs.rows.tolist()):
        begin, end = inputs.query_start_loc[index : index + 2].tolist()
        length = int(inputs.seq_lens[index])
        slots = torch.arange(length)
        pages = cache[inputs.block_table[row].long()[slots // block_size], :, LAYER, :, slots % block_size].float()
        pages[length - (end - begin) :] = torch.stack((k[begin:end], v[begin:end]), dim=2)
        key, value = pages.repeat_interleave(heads // kv_heads, dim=1).permute(2, 1, 0, 3)
        distance = torch.arange(length - (end - begin), length)[:, None] - slots
        seen = (distance >= 0) & (distance < (shape.sliding_window or length))
        query = q[begin:end].transpose(0, 1)
        scores = (query @ key.transpose(1, 2) * shape.scale).masked_fill(~seen, float("-inf"))
        out.append((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    return torch.cat(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_attention_is_close_to_float32(backend, build_inputs, relative_error, case, dtype):
    heads, kv_heads, head_dim, block_size, window = case
    inputs = build_inputs(COUNTS, LENGTHS, block_size, head_dim)
    cache = build_cache(inputs.block_table.numel(), kv_heads, block_size, head_dim, dtype)
    fill_history(cache, inputs, COUNTS)
    norms = (torch.rand(head_dim), torch.rand(head_dim)) if window else (None, None)
    shape = AttentionShape(
        num_heads=heads, scale=head_dim**-0.5, q_norm=norms[0], k_norm=norms[1], eps=1e-6, sliding_window=window
    )
    qkv = torch.randn(sum(COUNTS), (heads + 2 * kv_heads) * head_dim)
    expected = expected_attention(qkv, cache.clone(), inputs, shape)
    assert relative_error(backend.attention(qkv, cache, LAYER, inputs, shape), expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_and_torch_write_and_round_alike(compiled, build_inputs, relative_error, dtype):
    inputs = build_inputs(COUNTS, LENGTHS, 16, 32)
    cache = build_cache(inputs.block_table.numel(), 3, 16, 64, dtype)
    fill_history(cache, inputs, COUNTS)
    other = cache.clone()
    shape = AttentionShape(num_heads=9, scale=0.125)
    qkv = torch.randn(sum(COUNTS), 15 * 64)
    found = compiled.attention(qkv, cache, LAYER, inputs, shape)
    expected = reference_attention.attention(qkv, other, LAYER, inputs, shape)
    assert relative_error(found, expected) < 1e-4
    torch.testing.assert_close(cache, other, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_only_the_slots_of_new_tokens_change(backend, build_inputs):
    inputs = build_inputs((2, 1), (18, 5), 16, 8)
    cache = build_cache(inputs.block_table.numel() + 3, 2, 16, 8, torch.float32)
    fill_history(cache, inputs, (2, 1))
    before = cache.clone()
    out = backend.attention(torch.randn(3, 48), cache, LAYER, inputs, AttentionShape(num_heads=2, scale=1.0))
    assert out.isfinite().all()
    changed = ~((cache == before) | (cache.isnan() & before.isnan())).flatten(1).all(1)
    first, second = inputs.rows.tolist()
    written = {int(inputs.block_table[first, 1]), int(inputs.block_table[second, 0])}
    assert set(changed.nonzero().flatten().tolist()) == written
    assert cache[:, :, [0, 2]].isnan().all()
    block = cache[int(inputs.block_table[first, 1]), :, LAYER]
    assert block[:, :, :2].isfinite().all()
    assert block[:, :, 2:].isnan().all()


def test_any_strides_of_the_cache_will_do(backend, build_inputs):
    inputs = build_inputs(COUNTS, LENGTHS, 16, 16)
    shape = AttentionShape(num_heads=4, scale=0.25)
    dense = build_cache(inputs.block_table.numel(), 2, 16, 16, torch.bfloat16)
    fill_history(dense, inputs, COUNTS)
    wide = torch.full((3, 2, 16, dense.shape[0], 2, 18), float("nan"), dtype=torch.bfloat16)
    strided = wide.permute(3, 4, 0, 1, 2, 5)[..., :16]
    strided.copy_(dense)
    qkv = torch.randn(sum(COUNTS), 8 * 16)
    expected = backend.attention(qkv, dense, LAYER, inputs, shape)
    assert torch.equal(backend.attention(qkv, strided, LAYER, inputs, shape), expected)
    assert torch.equal(strided.nan_to_num(), dense.nan_to_num())


@pytest.mark.parametrize("wrong", [-1, 2**31 - 1])
def test_blocks_that_do_not_exist_are_neither_read_nor_written(backend, build_inputs, wrong):
    inputs = build_inputs((20,), (100,), 16, 16)
    cache = torch.randn(9, 2, 3, 2, 16, 16)
    table = inputs.block_table.clone()
    table[0, 2], table[0, 6] = wrong, wrong
    inputs = dataclasses.replace(inputs, block_table=table)
    before = cache.clone()
    out = backend.attention(torch.randn(20, 96), cache, LAYER, inputs, AttentionShape(num_heads=2, scale=0.25))
    assert out.isfinite().all()
    assert torch.equal(cache[7:], before[7:])
    assert torch.equal(cache[:, :, [0, 2]], before[:, :, [0, 2]])


def test_tokens_behind_the_last_request_give_zeros(backend, build_inputs):
    inputs = build_inputs((2,), (5,), 16, 16)
    inputs = dataclasses.replace(inputs, positions=torch.cat((inputs.positions, torch.zeros(3, dtype=torch.int32))))
    out = backend.attention(
        torch.randn(5, 48), torch.zeros(1, 1, 3, 2, 16, 16), 0, inputs, AttentionShape(num_heads=1, scale=1.0)
    )
    assert torch.equal(out[2:], torch.zeros(3, 16))
    assert (out[:2] != 0).all()


def test_inputs_that_would_be_misread_are_refused(compiled, build_inputs):
    inputs = build_inputs((2,), (5,), 16, 16)
    shape, qkv, cache = AttentionShape(num_heads=1, scale=1.0), torch.randn(2, 48), torch.zeros(1, 1, 3, 2, 16, 16)
    with pytest.raises(ValueError, match="no layer 3"):
        compiled.attention(qkv, cache, 3, inputs, shape)
    with pytest.raises(ValueError, match="dense int32"):
        compiled.attention(qkv, cache, 0, dataclasses.replace(inputs, positions=inputs.positions.long()), shape)
    with pytest.raises(ValueError, match="dense float32"):
        compiled.attention(qkv[:, :47], cache, 0, inputs, shape)
