"""How many KV blocks there are, and the tensor that holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.config import EngineConfig
from penstock.errors import ConfigError, OutOfMemory
from penstock.models.spec import ModelSpec
from penstock_kernels.cpu.memory import zeros

DEFAULT_BYTES = 4 << 30
DEFAULT_SHARE = 0.25  # of the memory that is available once the weights are loaded
LARGEST_SHARE = 0.8  # what may be taken so that one request fits
NUM_DUMMY_BLOCKS = 1  # block 0 belongs to no request
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """Shape and type of the cache: `[num_blocks, num_kv_heads, num_layers, 2, block_size, head_dim]`."""

    num_kv_heads: int
    num_layers: int
    block_size: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, spec: ModelSpec, config: EngineConfig) -> KVLayout:
        """The layout for a model; `--kv-cache-dtype auto` follows `--dtype`, whose auto is bfloat16."""
        names = [name for name in (config.cache.kv_cache_dtype, config.model.dtype, "bfloat16") if name != "auto"]
        return cls(
            num_kv_heads=spec.num_kv_heads,
            num_layers=spec.num_layers,
            block_size=config.cache.block_size,
            head_dim=spec.head_dim,
            dtype=DTYPES[names[0]],
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        elements = self.num_kv_heads * self.num_layers * 2 * self.block_size * self.head_dim
        return elements * self.dtype.itemsize

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold so many tokens of one request."""
        return -(-num_tokens // self.block_size)


def choose_num_blocks(layout: KVLayout, config: EngineConfig, max_model_len: int, available: int) -> int:
    """Blocks to allocate in host memory of which `available` bytes are free; otherwise as `fit_blocks`."""
    if config.cache.kv_cache_memory is not None:
        granted = config.cache.kv_cache_memory
    else:
        longest = (layout.blocks_for(max_model_len) + NUM_DUMMY_BLOCKS) * layout.block_bytes
        granted = max(min(DEFAULT_BYTES, int(available * DEFAULT_SHARE)), min(longest, int(available * LARGEST_SHARE)))
    return fit_blocks(layout, config, max_model_len, granted)


def fit_blocks(
    layout: KVLayout, config: EngineConfig, max_model_len: int, granted_bytes: int, remedy: str = "more free memory"
) -> int:
    """Blocks that so many bytes hold, the dummy block included: never more than all rows at full length could use.

    Raises `OutOfMemory` if a request of the `--max-model-len` that was asked for does not fit; without one, a cache
    shorter than the model's context will do, and the engine offers what it holds. `remedy`: what to do about it where
    `--kv-cache-memory` was not given.
    """
    granted = max(0, granted_bytes) // layout.block_bytes
    longest = layout.blocks_for(max_model_len) + NUM_DUMMY_BLOCKS
    useful = layout.blocks_for(max_model_len) * config.scheduler.max_num_seqs + NUM_DUMMY_BLOCKS
    needed = longest if config.model.max_model_len is not None else 1 + NUM_DUMMY_BLOCKS
    if granted < needed:
        raise OutOfMemory(
            _too_little(layout, max_model_len, granted, needed, remedy_of(layout, config, needed, remedy))
        )
    return min(granted, useful)


def remedy_of(layout: KVLayout, config: EngineConfig, needed: int, otherwise: str) -> str:
    """What gives the cache `needed` blocks: its own flag if that was given."""
    if config.cache.kv_cache_memory is None:
        return otherwise
    return f"--kv-cache-memory {needed * layout.block_bytes // 2**20 + 1}MiB"


def _too_little(layout: KVLayout, max_model_len: int, granted: int, needed: int, remedy: str) -> str:
    """One line: what there is, what is needed, and what to change."""
    have, want = (count * layout.block_bytes / 2**20 for count in (granted, needed))
    fits = max(0, granted - NUM_DUMMY_BLOCKS) * layout.block_size
    shorter = f" or --max-model-len {min(fits, max_model_len)}" if fits else ""
    return (
        f"too little memory for the KV cache: {have:,.0f} MiB are to be had, but one request of {max_model_len:,} "
        f"tokens needs {want:,.0f} MiB; use {remedy}{shorter}"
    )


def allocate_kv_cache(layout: KVLayout, num_blocks: int) -> Tensor:
    """The cache, all zeros, of which a page takes memory only once it is written. Raises `OutOfMemory`."""
    shape = (num_blocks, layout.num_kv_heads, layout.num_layers, 2, layout.block_size, layout.head_dim)
    try:
        return zeros(shape, layout.dtype)
    except OSError as error:
        num_bytes = num_blocks * layout.block_bytes
        raise OutOfMemory(
            f"the system refuses {num_bytes / 2**20:,.0f} MiB for the KV cache: {error.strerror}"
        ) from None


def choose_max_model_len(config: EngineConfig, spec: ModelSpec) -> int:
    """Longest request in tokens. Raises `ConfigError` for more than the model's positions."""
    wanted = config.model.max_model_len
    if wanted is not None and wanted > spec.max_position:
        raise ConfigError(
            "max_model_len", f"{wanted:,} is more than the model's context of {spec.max_position:,} tokens"
        )
    return wanted or spec.max_position
