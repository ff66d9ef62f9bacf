"""The longest request that is served: what was asked for, what the model knows, and what the KV cache holds."""

from __future__ import annotations

from penstock.config import EngineConfig
from penstock.errors import ConfigError, OutOfMemory
from penstock.models.spec import ModelSpec
from penstock.worker.capacity import Capacity


def wanted_context(config: EngineConfig, spec: ModelSpec) -> int:
    """The longest request in tokens, before memory is known; raises `ConfigError` for more than the model can."""
    wanted = config.model.max_model_len or spec.max_position
    if wanted > spec.max_position:
        raise ConfigError(
            "max_model_len", f"{wanted:,} is more than the model's context of {spec.max_position:,} tokens"
        )
    return wanted


def fit_context(config: EngineConfig, max_model_len: int, capacity: Capacity) -> int:
    """The longest request that the KV cache holds, in tokens, at most `max_model_len`.

    Raises `OutOfMemory` if someone asked for more than fits (`--max-model-len`), or if not even one block fits.
    """
    block_size = config.cache.block_size
    num_tokens = (capacity.num_blocks - 1) * block_size  # block 0 is the dummy
    needed_tokens = config.model.max_model_len or block_size
    if num_tokens < needed_tokens:
        needed_bytes = -(-needed_tokens // block_size) * capacity.block_bytes
        raise OutOfMemory(
            f"too little memory for the KV cache: it holds {num_tokens:,} tokens, but one request "
            f"of {needed_tokens:,} needs {needed_bytes / 2**20:,.0f} MiB; lower --max-model-len "
            "or raise --kv-cache-memory"
        )
    return min(max_model_len, num_tokens)
