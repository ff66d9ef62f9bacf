"""The chunk that backends are timed with: no larger than what is needed, and one that FlashAttention takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from penstock.attention import trial
from penstock.attention.flash3 import Flash3Attention, FlashBuild
from penstock.attention.torch import TorchAttention
from penstock.attention.trial import chunk_seconds, chunk_step
from support.flash_module import FlashRecorder
from support.gpu_attention import needs_of


def test_each_kind_of_layer_is_timed_once_on_a_chunk_of_a_longer_context() -> None:
    needs, recorder = needs_of(windows=(0, 9, 0), max_tokens=96), FlashRecorder()
    times = iter((0.25, 0.5))

    def measure(work: Callable[[], None]) -> float:
        work()
        return next(times)

    build = partial(Flash3Attention, build=FlashBuild(module=recorder, flags={}))
    assert chunk_seconds(build, needs, measure) == 0.75
    assert [call["window_size"] for call in recorder.calls] == [(-1, -1), (8, 0)]
    for call in recorder.calls:
        assert len(call["query"]) == 96
        assert call["cache_seqlens"].tolist() == [384]


def test_a_chunk_is_no_larger_than_a_typical_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "CHUNK_TOKENS", 32)
    recorder, sizes = FlashRecorder(), []

    def build(needs):
        sizes.append((needs.max_tokens, needs.max_requests))
        return Flash3Attention(needs, FlashBuild(module=recorder, flags={}))

    chunk_seconds(build, needs_of(max_tokens=1 << 20), lambda work: 0.0)
    assert sizes == [(32, 1)]


def test_backends_see_the_whole_context_of_the_chunk() -> None:
    needs = needs_of(max_tokens=20)
    query, batch = chunk_step(needs, 50)
    assert batch.kv_cache.shape[0] == 8, "seven blocks, and the dummy"
    out = torch.full_like(query, torch.nan)
    TorchAttention(needs).attend(1, query, batch, out)
    assert not out.isnan().any()
    assert batch.block_table.tolist() == [[7, 6, 5, 4, 3, 2, 1]]
