"""The backends against the one in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from penstock.attention import triton
from penstock.attention.torch import TorchAttention
from penstock.attention.triton import TritonAttention
from penstock_kernels.gpu.attention_schedule import TileShape
from penstock_kernels.gpu.kv_layout import quantised
from penstock_kernels.kv_scales import UNSCALED, KvScales
from support.gpu_attention import DEVICE, attention_step, needs_of, seen_by

DECODE = ((1, 1), (1, 40), (1, 90))
MIXED = ((7, 7), (1, 33), (12, 45), (1, 2))
CASES: dict[str, tuple[Sequence[tuple[int, int]], dict[str, Any]]] = {
    "decode": (DECODE, {}),
    "mixed": (MIXED, {}),
    "one prompt": (((30, 30),), {}),
    "two windows": (MIXED, {"windows": (6, 0)}),
    "decode in a window": (DECODE, {"windows": (6, 6)}),
    "one head per group": (MIXED, {"num_heads": 2}),
    "deterministic": (MIXED, {"is_deterministic": True}),
    "decode, deterministic": (DECODE, {"is_deterministic": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_triton_sees_what_torch_sees(case: str) -> None:
    lengths, changes = CASES[case]
    needs = needs_of(**changes)
    query, batch = attention_step(needs, lengths)
    for layer in range(len(needs.windows)):
        found, right = (seen_by(backend(needs), layer, query, batch) for backend in (TritonAttention, TorchAttention))
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [DECODE, MIXED], ids=["decode", "mixed"])
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_scales_bring_back_what_a_float8_cache_cannot_hold(
    lengths: Sequence[tuple[int, int]], is_deterministic: bool
) -> None:
    needs = needs_of(is_deterministic=is_deterministic)
    query, batch = attention_step(needs, lengths)
    loud = torch.tensor([2000.0, 700.0], device=DEVICE)[:, None, None]  # keys, values: 448 is the largest float8
    batch, query = replace(batch, kv_cache=batch.kv_cache * loud), query / 2000
    right = seen_by(TorchAttention(needs), 1, query, batch)
    scales = KvScales(key=16.0, value=6.0)
    for used, is_close in ((scales, True), (UNSCALED, False)):
        keys, values = batch.kv_cache.unbind(3)
        parts = [
            quantised(part, scale, torch.float8_e4m3fn) for part, scale in ((keys, used.key), (values, used.value))
        ]
        float8 = replace(
            batch, kv_cache=torch.stack([part.view(torch.uint8) for part in parts], 3).view(parts[0].dtype)
        )
        needs = replace(needs, kv_dtype=torch.float8_e4m3fn)
        judged, found = (seen_by(kind(needs), 1, query, float8, used) for kind in (TorchAttention, TritonAttention))
        torch.testing.assert_close(found, judged, atol=0.01, rtol=1e-5)
        error = float((found - right).norm() / right.norm())
        assert error < 0.05 if is_close else error > 0.3


def test_one_schedule_serves_all_layers_of_a_window() -> None:
    needs = needs_of(windows=(0, 6, 0))
    query, batch = attention_step(needs, MIXED)
    backend, right = TritonAttention(needs), TorchAttention(needs)
    backend.prepare(batch)
    for layer in (2, 1, 0):
        found, expected = torch.empty_like(query), torch.empty_like(query)
        backend.attend(layer, query, batch, found)
        right.attend(layer, query, batch, expected)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_request_has_bits_of_its_own_where_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def tile_for(*, is_decode: bool, **_: object) -> TileShape:
        return TileShape(tokens=1, keys=16) if is_decode else TileShape(tokens=8, keys=32)

    monkeypatch.setattr(triton, "tile_for", tile_for)
    needs = needs_of(is_deterministic=True)
    query, batch = attention_step(needs, ((5, 9), (1, 70), (3, 80)))
    together = seen_by(TritonAttention(needs), 0, query, batch)
    alone = replace(
        batch,
        input_ids=batch.input_ids[5:6],
        query_start_loc=torch.tensor([0, 1], dtype=torch.int32, device=DEVICE),
        seq_lens=batch.seq_lens[1:2],
        rows=batch.rows[1:2],
        is_decode=True,
    )
    assert torch.equal(seen_by(TritonAttention(needs), 0, query[5:6], alone), together[5:6])


def test_rows_of_nobody_keep_what_they_had() -> None:
    needs = needs_of()
    query, batch = attention_step(needs, MIXED)
    wide = torch.cat([query, query[:3]])
    padded = replace(batch, input_ids=torch.cat([batch.input_ids, batch.input_ids[:3]]))
    for backend in (TritonAttention(needs), TorchAttention(needs)):
        assert seen_by(backend, 0, wide, padded)[len(query) :].isnan().all()


def test_counts_the_memory_that_it_holds() -> None:
    needs = needs_of()
    small, large = TritonAttention(needs), TritonAttention(replace(needs, max_requests=needs.max_requests + 100))
    tile_columns = 2 * 2 * 100  # of both tilings: a request's tile and its units
    request_columns = 2 * 100
    assert large.num_bytes - small.num_bytes == 4 * (tile_columns + request_columns)
    assert TorchAttention(needs).num_bytes == 0
    assert TritonAttention(replace(needs, is_deterministic=True)).num_bytes < small.num_bytes


def test_a_step_of_the_largest_size_fits() -> None:
    needs = replace(needs_of(), max_requests=3, max_tokens=40)
    lengths = ((38, 38), (1, 20), (1, 3))
    query, batch = attention_step(needs, lengths)
    found = seen_by(TritonAttention(needs), 1, query, batch)
    torch.testing.assert_close(found, seen_by(TorchAttention(needs), 1, query, batch), atol=1e-5, rtol=1e-5)
