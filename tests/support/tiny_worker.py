"""A tiny Llama on disk and in `transformers`, with a configuration that runs it in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import transformers

from penstock.config import CacheConfig, ComputeConfig, EngineConfig, ModelConfig, SchedulerConfig
from support.tiny_models import save_tiny_model

NUM_BLOCKS = 120
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}  # Triton's interpreter runs it too
BLOCK_BYTES = 1 * 2 * 2 * 16 * 32 * 4  # heads, layers, keys and values, tokens, head_dim, float32


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyWorker:
    """What a worker is started with, and the same model in the reference."""

    folder: Path
    reference: transformers.PreTrainedModel
    config: EngineConfig


def save_tiny_worker(folder: Path) -> TinyWorker:
    """Write the model into `folder`."""
    config = EngineConfig(
        model=ModelConfig(dtype="float32"),
        cache=CacheConfig(kv_cache_memory=NUM_BLOCKS * BLOCK_BYTES),
        scheduler=SchedulerConfig(max_num_seqs=8),
        compute=ComputeConfig(threads=2),
    )
    return TinyWorker(folder=folder, reference=save_tiny_model(folder, **SMALL), config=config)
