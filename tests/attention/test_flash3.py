"""FlashAttention 3: what is asked of its module, which a stand-in answers in plain torch, and what it is not asked."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.attention.flash3 import Flash3Attention, FlashBuild, failure, find_build, refusal, tile_keys
from penstock.attention.torch import TorchAttention
from support.flash_module import FlashRecorder
from support.gpu_attention import attention_step, needs_of, seen_by

PROMPTS = ((40, 40), (1, 33), (45, 60))
WHEEL = {"FLASHATTENTION_DISABLE_PAGEDKV": True, "FLASHATTENTION_DISABLE_LOCAL": True}
HALF = {"dtype": torch.bfloat16, "kv_dtype": torch.bfloat16, "block_size": 128, "head_dim": 128}


@pytest.mark.parametrize("windows", [(0, 0), (9, 0)])
def test_hands_over_the_paged_cache_as_it_lies(windows: tuple[int, int]) -> None:
    needs = needs_of(max_tokens=128, windows=windows)
    recorder = FlashRecorder()
    backend = Flash3Attention(needs, FlashBuild(module=recorder, flags={}))
    query, batch = attention_step(needs, PROMPTS)
    batch.block_table[batch.block_table == batch.block_table[int(batch.rows[0]), -1]] = -1  # a block that is not there
    for layer in range(2):
        right = seen_by(TorchAttention(needs), layer, query, batch)
        torch.testing.assert_close(seen_by(backend, layer, query, batch), right, atol=1e-5, rtol=1e-5)
    call = recorder.calls[0]
    assert call["max_seqlen_q"] == 86
    assert call["num_splits"] == 1
    assert call["keys"].untyped_storage().data_ptr() == batch.kv_cache.untyped_storage().data_ptr()
    assert tuple(call["keys"].shape) == (batch.kv_cache.shape[0], needs.block_size, 2, 16)


@pytest.mark.parametrize("lengths", [((1, 30), (1, 9)), ((7, 20),), ((1, 3),) * 65])
def test_leaves_what_fills_no_tile_to_triton(lengths: tuple[tuple[int, int], ...]) -> None:
    needs = needs_of(max_requests=65)
    recorder = FlashRecorder()
    query, batch = attention_step(needs, lengths)
    found = seen_by(Flash3Attention(needs, FlashBuild(module=recorder, flags={})), 0, query, batch)
    torch.testing.assert_close(found, seen_by(TorchAttention(needs), 0, query, batch), atol=1e-5, rtol=1e-5)
    assert recorder.calls == []


def test_is_tried_out_before_it_is_used() -> None:
    class Refusing(FlashRecorder):
        def flash_attn_with_kvcache(self, *_: Tensor, **__: Any) -> Tensor:
            raise RuntimeError("This flash attention build does not support paged KV.\nException raised from …")

    class Wrong(FlashRecorder):
        def flash_attn_with_kvcache(self, *tensors: Tensor, **given: Any) -> Tensor:
            return 1.5 * super().flash_attn_with_kvcache(*tensors, **given)

    needs, recorder = needs_of(windows=(0, 9, 0)), FlashRecorder()
    assert failure(needs, FlashBuild(module=recorder, flags={})) is None
    assert [call["window_size"] for call in recorder.calls] == [(-1, -1), (8, 0)]
    refused = failure(needs, FlashBuild(module=Refusing(), flags={}))
    assert refused == "it failed a trial: This flash attention build does not support paged KV."
    assert failure(needs, FlashBuild(module=Wrong(), flags={})) == "it failed a trial: its results are wrong"


def test_counts_what_the_library_takes_besides() -> None:
    needs = needs_of()
    backend = Flash3Attention(needs, FlashBuild(module=FlashRecorder(), flags={}))
    more = Flash3Attention(
        replace(needs, max_tokens=needs.max_tokens + 64), FlashBuild(module=FlashRecorder(), flags={})
    )
    assert more.num_bytes - backend.num_bytes >= 64 * needs.num_heads * 4 * (needs.head_dim + 1)


@pytest.mark.parametrize(
    ("changes", "flags", "capability", "message"),
    [
        ({}, {}, (9, 0), None),
        ({}, WHEEL, (9, 0), None),
        ({"block_size": 16}, {}, (9, 0), None),
        ({"windows": (7, 0)}, {}, (9, 0), None),
        ({"head_dim": 64}, WHEEL, (9, 0), None),
        ({"block_size": 16}, WHEEL, (9, 0), "a multiple of 128 tokens only; use --block-size 128"),
        ({"head_dim": 256}, WHEEL, (9, 0), "--block-size 80"),
        ({"windows": (7, 0)}, WHEEL, (9, 0), "no sliding windows"),
        ({}, {"FLASHATTENTION_DISABLE_VARLEN": True}, (9, 0), "different lengths"),
        ({}, None, (9, 0), "pip install fa3-fwd"),
        ({}, {}, (8, 0), "finds compute capability 8.0"),
        ({}, {}, (10, 0), "needs Hopper"),
        ({}, {}, None, "finds no GPU"),
        ({"dtype": torch.float32}, {}, (9, 0), "float32; use --dtype bfloat16"),
        ({"dtype": torch.float16}, {"FLASHATTENTION_DISABLE_FP16": True}, (9, 0), "float16"),
        ({"kv_dtype": torch.float8_e4m3fn}, {}, (9, 0), "float8_e4m3fn; use --kv-cache-dtype auto"),
        ({"head_dim": 264}, {}, (9, 0), "heads of 264"),
        ({"head_dim": 84}, {}, (9, 0), "heads of 84"),
        ({"is_deterministic": True}, {}, (9, 0), "--deterministic"),
    ],
)
def test_says_what_it_cannot_do(
    changes: dict[str, Any], flags: dict[str, bool] | None, capability: tuple[int, int] | None, message: str | None
) -> None:
    build = None if flags is None else FlashBuild(module=None, flags=flags)
    problem = refusal(needs_of(**{**HALF, **changes}), build, capability)
    assert (problem is None) == (message is None), problem
    assert message is None or message in str(problem)


@pytest.mark.parametrize(("head_dim", "keys"), [(8, 128), (64, 128), (80, 144), (128, 128), (136, 112), (256, 80)])
def test_knows_the_keys_of_a_tile(head_dim: int, keys: int) -> None:
    assert tile_keys(head_dim) == keys


@pytest.mark.parametrize(
    "names", [("fa3_fwd_interface", "fa3_fwd_config"), ("flash_attn_interface", "flash_attn_config")]
)
def test_finds_what_is_installed_and_what_it_lacks(names: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_build() is None
    interface, config = (ModuleType(name) for name in names)
    config.CONFIG = {"build_flags": WHEEL}  # type: ignore[attr-defined]
    for module in (interface, config):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    build = find_build()
    assert build is not None
    assert build.module is interface
    assert build.lacks("PAGEDKV")
    assert not build.lacks("SPLIT")
