"""Attention of prompts by FlashAttention 3, on Hopper; steps in which every request has one token stay with Triton.

Two packages bring it. `fa3-fwd` of the package index (seen: 0.0.3) is built without its reader of small pages and
without windows: it reads paged keys only through TMA, in whole tiles of keys, and only if the queries fill a tile. A
full build from source (`flash_attn_interface`) has neither limit. What a build lacks stands in its `CONFIG`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from penstock.attention.backend import AttentionNeeds, ForwardBatch
from penstock.attention.torch import TorchAttention
from penstock.attention.trial import chunk_step
from penstock.attention.triton import TritonAttention
from penstock_kernels.kv_scales import UNSCALED, KvScales

MODULES = (("fa3_fwd_interface", "fa3_fwd_config"), ("flash_attn_interface", "flash_attn_config"))
HOPPER = (9, 0)
LARGEST_HEAD = 256
TILE_QUERIES = 192  # (token, head of the group) pairs of a tile, at most: with more, paged keys come through TMA
TILE_KEYS = {64: 128, 96: 144, 128: 128, 192: 112, 256: 80}  # head size up to -> keys of a causal tile
TRIAL_TOKENS = 256  # more than fill a tile
TRIAL_ERROR = 0.03  # of bfloat16 results around 1
DTYPES = {torch.bfloat16: None, torch.float16: "FLASHATTENTION_DISABLE_FP16"}  # type -> the flag that takes it away


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashBuild:
    """An installed FlashAttention 3."""

    module: Any
    flags: Mapping[str, bool]  # FLASHATTENTION_DISABLE_… -> whether it was built without

    def lacks(self, feature: str) -> bool:
        """Whether it was built without a feature, such as PAGEDKV."""
        return bool(self.flags.get(f"FLASHATTENTION_DISABLE_{feature}", False))


def find_build() -> FlashBuild | None:
    """What is installed, the wheel of the package index first; None if nothing is, or it does not fit this torch."""
    for interface, config in MODULES:
        try:
            module = importlib.import_module(interface)
            flags = importlib.import_module(config).CONFIG["build_flags"]
        except (ImportError, OSError, RuntimeError):  # missing, or built for another torch or CUDA
            continue
        return FlashBuild(module=module, flags=flags)
    return None


def refusal(needs: AttentionNeeds, build: FlashBuild | None, capability: tuple[int, int] | None) -> str | None:
    """Why FlashAttention 3 cannot do it, and what to change; None if it can. `capability` of the GPU, if there is one.

    It has neither ALiBi nor, in these builds, sinks; no model here asks for them.
    """
    if capability != HOPPER:
        has = "no GPU" if capability is None else f"compute capability {capability[0]}.{capability[1]}"
        return f"it needs Hopper (compute capability 9.0) and finds {has}"
    if build is None:
        return "it is not installed for this torch; pip install fa3-fwd"
    if needs.dtype not in DTYPES or ((flag := DTYPES[needs.dtype]) and build.flags.get(flag)):
        return f"it cannot compute in {_name(needs.dtype)}; use --dtype bfloat16"
    if needs.kv_dtype != needs.dtype:
        return f"it cannot read a KV cache of {_name(needs.kv_dtype)}; use --kv-cache-dtype auto"
    if needs.head_dim > LARGEST_HEAD or needs.head_dim % 8:
        return f"it cannot do heads of {needs.head_dim} elements: multiples of 8 up to {LARGEST_HEAD}"
    if needs.is_deterministic:
        return "it does not promise that a row's bits are its own; leave --deterministic out"
    return _refusal_of_build(needs, build)


def failure(needs: AttentionNeeds, build: FlashBuild) -> str | None:
    """What goes wrong when a prompt is computed in each kind of layer, with a cache like the real one; None: nothing.

    For what a build refuses or gets wrong without saying so in its flags.
    """
    needs = replace(needs, max_requests=1, max_tokens=TRIAL_TOKENS)
    query, batch = chunk_step(needs, TRIAL_TOKENS)
    found, right = torch.empty_like(query), torch.empty_like(query)
    tried, judge = Flash3Attention(needs, build), TorchAttention(needs)
    for window in dict.fromkeys(needs.windows):
        layer = needs.windows.index(window)
        try:
            tried.prepare(batch)
            tried.attend(layer, query, batch, found)
        except (RuntimeError, TypeError) as error:
            return f"it failed a trial: {str(error).partition(chr(10))[0]}"
        judge.attend(layer, query, batch, right)
        if not torch.allclose(found, right, atol=TRIAL_ERROR, rtol=TRIAL_ERROR):
            return "it failed a trial: its results are wrong"
    return None


def _refusal_of_build(needs: AttentionNeeds, build: FlashBuild) -> str | None:
    """What the build in question lacks."""
    if build.lacks("VARLEN"):
        return "this build has no batches of different lengths"
    if any(needs.windows) and build.lacks("LOCAL"):
        return "this build has no sliding windows"
    keys = tile_keys(needs.head_dim)
    if build.lacks("PAGEDKV") and needs.block_size % keys:
        return f"this build reads KV blocks of a multiple of {keys} tokens only; use --block-size {keys}"
    return None


def tile_keys(head_dim: int) -> int:
    """Keys of a tile for heads of that size."""
    return next(keys for largest, keys in TILE_KEYS.items() if head_dim <= largest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Flash3Attention:
    """Chunks by FlashAttention, as one packed batch; what it is slow at, or refuses, by `TritonAttention`."""

    name = "flash3"
    is_capturable = True  # what is captured has one token for each request

    def __init__(self, needs: AttentionNeeds, build: FlashBuild) -> None:
        self._needs, self._module = needs, build.module
        self._triton = TritonAttention(needs)
        self._group = needs.num_heads // needs.num_kv_heads
        self._page_table: Tensor | None = None  # int32 [num_reqs, max_blocks] of the step at hand

    @property
    def num_bytes(self) -> int:
        """See `AttentionBackend.num_bytes`: Triton's, and the result and its sums, which FlashAttention allocates."""
        needs = self._needs
        sums = 4 * needs.num_heads * needs.max_tokens
        result = needs.max_tokens * needs.num_heads * needs.head_dim * needs.dtype.itemsize
        return self._triton.num_bytes + result + sums

    def prepare(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.prepare`."""
        if not self._takes(batch):
            self._triton.prepare(batch)
            return
        self._page_table = batch.block_table.index_select(0, batch.rows).clamp_(min=0)

    def attend(self, layer: int, query: Tensor, batch: ForwardBatch, out: Tensor, scales: KvScales = UNSCALED) -> None:
        """See `AttentionBackend.attend`; rows that no request owns become anything."""
        assert scales == UNSCALED, f"{scales} of a cache that is not float8"
        if not self._takes(batch):
            self._triton.attend(layer, query, batch, out)
            return
        window = self._needs.windows[layer]
        keys, values = batch.kv_cache[:, :, layer].permute(2, 0, 3, 1, 4)  # [num_blocks, block_size, Hkv, D] each
        found = self._module.flash_attn_with_kvcache(
            query,
            keys,
            values,
            cache_seqlens=batch.seq_lens,
            page_table=self._page_table,
            cu_seqlens_q=batch.query_start_loc,
            max_seqlen_q=len(query),
            softmax_scale=self._needs.scale,
            causal=True,
            window_size=(window - 1, 0) if window else (-1, -1),
            num_splits=1,
        )
        out.copy_(found)

    def _takes(self, batch: ForwardBatch) -> bool:
        """Whether the step's queries may fill a tile; `max_seqlen_q`, which decides it, is the number of tokens."""
        return not batch.is_decode and len(batch.input_ids) * self._group > TILE_QUERIES
