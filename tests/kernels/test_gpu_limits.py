"""Kernels at the edges of what they may be given: ids of nothing, offsets beyond 32 bits, steps without work."""

from __future__ import annotations

import math
import mmap

import pytest
import torch

from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.copy_blocks import copy_blocks
from penstock_kernels.gpu.fixed_matmul import fixed_matmul
from penstock_kernels.gpu.gated_activation import gated_activation
from penstock_kernels.gpu.gather_logprobs import gather_logprobs
from penstock_kernels.gpu.matvec import matvec
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention
from penstock_kernels.gpu.rms_norm import rms_norm
from penstock_kernels.gpu.rope_kv_write import rope_kv_write
from penstock_kernels.gpu.sample_tokens import Sampling, sample_tokens
from penstock_kernels.kv_scales import KvScales
from support.guarded import Guards

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RESERVED = 0x4000  # Linux's MAP_NORESERVE: Python names it from 3.13 on
FAR = 2**31 + 4096  # elements: an offset that 32 bits cannot hold
BLOCK_SIZE = 16


def roomy(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros of which only what is touched takes memory; on a GPU it is taken."""
    if DEVICE.type == "cuda":
        return torch.zeros(shape, dtype=dtype, device=DEVICE)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | RESERVED
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags), dtype=dtype).view(shape)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def integers(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def write(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Random keys and values at those slots of a cache with one head, unrotated; gives them [n, 2, D].

    They are what a float8 holds exactly.
    """
    head_dim, count = cache.shape[-1], len(slots)
    qkv = normal(count, 3 * head_dim).mul(4).round().clamp(-15, 15) / 4
    rope_kv_write(
        qkv,
        cache,
        0,
        positions=torch.zeros(count, dtype=torch.int32, device=DEVICE),
        slots=slots,
        cos_sin=torch.tensor([[1.0] * 8 + [0.0] * 8], device=DEVICE),
        query=torch.empty(count, 1, head_dim, device=DEVICE),
    ).run()
    return qkv.view(count, 3, head_dim)[:, 1:]


def attend(cache: torch.Tensor, table: torch.Tensor, *, rows=(0,), seq_lens=(40,), is_whole=False) -> torch.Tensor:
    """One query of ones per request. # [R, D]"""
    guards, count, head_dim = Guards(), len(rows), cache.shape[-1]
    schedule = AttentionSchedule.allocate(
        TileShape(tokens=1, keys=32, fewest_units=1), max_requests=count, max_tokens=0, num_programs=3, device=DEVICE
    )
    lengths, starts = integers(*seq_lens), integers(*range(count + 1))
    schedule.make(starts, lengths, num_kv_heads=1, window=0).run()
    requests = Requests(query_start_loc=starts, seq_lens=lengths, rows=integers(*rows), block_table=table)
    out = torch.empty(count, 1, head_dim, device=DEVICE)
    for launch in paged_attention(
        torch.ones(count, 1, head_dim, device=DEVICE),
        cache,
        0,
        requests,
        AttentionForm(scale=0.1),
        schedule=schedule,
        partials=None if is_whole else Partials.allocate(schedule, 1, head_dim, DEVICE),
        out=guards.house(out),
    ):
        launch.run()
    assert guards.broken() == []
    return guards.house(out)[:, 0]


def softmaxed(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.softmax(0.1 * keys.sum(dim=1), dim=0) @ values


def test_keys_and_values_beyond_32_bits_are_written_and_read():
    head_dim = 16
    cache = roomy(FAR // (2 * BLOCK_SIZE * head_dim) + 2, 1, 1, 2, BLOCK_SIZE, head_dim, dtype=torch.float8_e4m3fn)
    last = len(cache) - 1
    slots = torch.tensor([last * BLOCK_SIZE + offset for offset in range(BLOCK_SIZE)], device=DEVICE)
    written = write(cache, slots).transpose(0, 1)
    keys, values = stored = cache[last, 0, 0].float()
    assert torch.equal(stored, written)
    found = attend(cache, integers(last)[None], seq_lens=(BLOCK_SIZE,))
    torch.testing.assert_close(found[0], softmaxed(keys, values), rtol=1e-4, atol=1e-4)


def test_blocks_beyond_32_bits_are_copied():
    words = 2**22
    cache = roomy(FAR // words + 2, words, dtype=torch.int32)
    last = len(cache) - 1
    cache[last, ::1000] = 7
    copy_blocks(cache, integers(last), integers(1)).run()
    assert torch.equal(cache[1, ::1000], torch.full_like(cache[1, ::1000], 7))
    assert int(cache[1, 1]) == 0


@pytest.fixture(scope="module")
def far_rows() -> torch.Tensor:
    """Rows [4, 64], the last of them more than 2^31 elements behind the first."""
    return roomy(3 * 2**30 + 64, dtype=torch.bfloat16).as_strided((4, 64), (2**30, 1))


def test_rows_that_lie_beyond_32_bits_are_read(far_rows):
    far_rows.copy_(normal(4, 64))
    near = far_rows.float().contiguous()
    norm, product = torch.empty(4, 64, device=DEVICE), torch.empty(4, 32, device=DEVICE)
    rms_norm(far_rows, torch.ones(64, device=DEVICE), 1e-6, out=norm).run()
    torch.testing.assert_close(norm, torch.nn.functional.rms_norm(near, (64,), eps=1e-6), rtol=1e-3, atol=1e-3)
    weight = normal(32, 64, dtype=torch.bfloat16)
    fixed_matmul(far_rows, weight, out=product).run()
    torch.testing.assert_close(product, near @ weight.float().T, rtol=1e-3, atol=1e-3)
    matvec(far_rows[2:], weight, out=product[2:]).run()
    torch.testing.assert_close(product[2:], near[2:] @ weight.float().T, rtol=1e-3, atol=1e-3)
    token_ids, ranks = integers(0, 0, 0, 0), integers(0, 0, 0, 0)
    greedy = Sampling(
        **{name: torch.zeros(4, device=DEVICE) for name in ("temperature", "top_p", "min_p")},
        **{name: integers(0, 0, 0, 0) for name in ("top_k", "seed", "index")},
    )
    sample_tokens(far_rows, greedy, token_ids=token_ids).run()
    assert token_ids.tolist() == near.argmax(dim=1).tolist()
    logprobs, log_totals = torch.empty(2, 4, device=DEVICE)
    gather_logprobs(far_rows, token_ids, logprobs=logprobs, ranks=ranks, log_totals=log_totals).run()
    torch.testing.assert_close(log_totals, near.logsumexp(dim=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("is_whole", [False, True], ids=["shared", "whole"])
def test_ids_of_no_block_and_no_row_read_nothing(is_whole):
    guards = Guards()
    cache = guards.house(normal(6, 1, 1, 2, BLOCK_SIZE, 16))
    broken = (-1, 6, 2**31 - 1, -(2**31), -7)
    beside = integers(3, 3, 3)
    table = torch.stack([beside, *(integers(3, one, 5) for one in broken), beside])[1:-1]
    rows, lengths = (0, 1, 2, 3, 4, -1, 5, 2**30), (40,) * 5 + (9,) * 3
    found = attend(cache, table, rows=rows, seq_lens=lengths, is_whole=is_whole)
    tokens = torch.cat((cache[3, 0, 0], torch.zeros(2, 16, 16, device=DEVICE), cache[5, 0, 0, :, :8]), dim=1)
    for row in range(5):
        torch.testing.assert_close(found[row], softmaxed(*tokens), rtol=1e-4, atol=1e-4)
    assert not found[5:].any(), "a row of no table sees nothing"
    longer = attend(cache, table[:, :1].contiguous(), rows=(0,), seq_lens=(70,), is_whole=is_whole)
    assert longer.isfinite().all(), "a length beyond the table"


def test_slots_of_no_block_write_nothing():
    guards = Guards()
    cache = guards.house(torch.full((4, 1, 1, 2, BLOCK_SIZE, 16), 5.0, device=DEVICE))
    outside = (-1, -16, 4 * BLOCK_SIZE, 2**40, -(2**40), 2**62, 4 * BLOCK_SIZE + 1)
    write(cache, integers(*outside, dtype=torch.int64))
    assert (cache == 5.0).all()
    assert guards.broken() == []


def test_the_logprob_of_no_token_is_minus_infinity_and_its_rank_the_last():
    logits = normal(4, 50)
    guards = Guards()
    logits = guards.house(logits)
    logprobs, log_totals = torch.empty(2, 4, device=DEVICE)
    ranks = integers(0, 0, 0, 0)
    chosen = integers(-1, 50, 2**31 - 1, -(2**31))
    gather_logprobs(logits, chosen, logprobs=logprobs, ranks=ranks, log_totals=log_totals).run()
    assert logprobs.tolist() == [float("-inf")] * 4
    assert ranks.tolist() == [51] * 4
    torch.testing.assert_close(log_totals, logits.logsumexp(dim=1))


def test_copies_from_and_to_no_block_do_nothing():
    guards = Guards()
    cache = guards.house(normal(4, 64))
    before = cache.clone()
    copy_blocks(cache, integers(0, -1, 4, 1, 2**31 - 1), integers(-1, 0, 1, 4, 2)).run()
    assert torch.equal(cache, before)
    assert guards.broken() == []


def test_a_float8_cache_saturates():
    cache = torch.zeros(1, 1, 1, 2, BLOCK_SIZE, 16, device=DEVICE).to(torch.float8_e4m3fn)
    qkv = torch.full((1, 48), 1e6, device=DEVICE)
    qkv[0, 16:24] = -3e38
    rope_kv_write(
        qkv,
        cache,
        0,
        positions=integers(0),
        slots=integers(2, dtype=torch.int64),
        cos_sin=torch.tensor([[1.0] * 8 + [0.0] * 8], device=DEVICE),
        query=torch.empty(1, 1, 16, device=DEVICE),
        scales=KvScales(key=2.0, value=0.5),
    ).run()
    key, value = cache[0, 0, 0, :, 2].float()
    assert key.tolist() == [-448.0] * 8 + [448.0] * 8
    assert value.tolist() == [448.0] * 16
    assert not cache[0, 0, 0, :, 3].float().any()


def test_a_product_is_added_to_where_it_lies():
    guards, x, weight, residual = Guards(), normal(2, 64), normal(40, 64), normal(2, 40)
    out = guards.house(residual)
    matvec(x, weight, out=out, residual=out).run()
    torch.testing.assert_close(out, residual + x @ weight.T, rtol=1e-4, atol=1e-4)
    assert guards.broken() == []


def test_a_step_without_work_writes_nothing():
    nothing = torch.empty(0, 64, device=DEVICE)
    rms_norm(nothing, torch.ones(64, device=DEVICE), 1e-6, out=nothing).run()
    gated_activation(nothing, "silu", out=torch.empty(0, 32, device=DEVICE)).run()
    fixed_matmul(nothing, normal(8, 64), out=torch.empty(0, 8, device=DEVICE)).run()
    matvec(nothing, normal(8, 64), out=torch.empty(0, 8, device=DEVICE)).run()
    copy_blocks(normal(2, 8), integers(), integers()).run()
    cache = torch.zeros(1, 1, 1, 2, BLOCK_SIZE, 16, device=DEVICE)
    assert write(cache, integers(dtype=torch.int64)).numel() == 0
    schedule = AttentionSchedule.allocate(
        TileShape(tokens=4, keys=16), max_requests=2, max_tokens=8, num_programs=3, device=DEVICE
    )
    out = torch.full((8, 1, 16), 9.0, device=DEVICE)
    no_requests = Requests(
        query_start_loc=integers(0), seq_lens=integers(), rows=integers(), block_table=integers(0)[None]
    )
    schedule.make(no_requests.query_start_loc, no_requests.seq_lens, num_kv_heads=1, window=0).run()
    for partials in (None, Partials.allocate(schedule, 1, 16, DEVICE)):
        for launch in paged_attention(
            out, cache, 0, no_requests, AttentionForm(scale=1.0), schedule=schedule, partials=partials, out=out
        ):
            launch.run()
    assert (out == 9.0).all()
    assert schedule.header.tolist()[:2] == [0, 0]
