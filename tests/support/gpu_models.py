"""Models as they run on a GPU: on one where there is one, else on CPU tensors in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from penstock.attention.backend import AttentionBackend, AttentionNeeds
from penstock.attention.triton import TritonAttention
from penstock.config import CacheConfig, EngineConfig, ModelConfig
from penstock.layers.workspace import StepLimits, Workspace
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model, run_on_gpu
from penstock.models.spec import ModelSpec
from penstock.worker.kv_memory import KVLayout
from penstock_kernels.gpu.ops import GpuOps
from support.paged_run import BLOCK_SIZE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FLOAT32 = EngineConfig(model=ModelConfig(dtype="float32"))
FLOAT8_CACHE = EngineConfig(model=ModelConfig(dtype="float32"), cache=CacheConfig(kv_cache_dtype="fp8"))
LIMITS = StepLimits(max_tokens=64, max_requests=4)


def attention_needs(
    spec: ModelSpec,
    limits: StepLimits = LIMITS,
    *,
    is_deterministic: bool = False,
    kv_dtype: torch.dtype = torch.float32,
) -> AttentionNeeds:
    """In float32, for steps of at most so much, in blocks like those of `PagedRun`."""
    return AttentionNeeds.of(
        spec,
        device=DEVICE,
        dtype=torch.float32,
        kv_dtype=kv_dtype,
        block_size=BLOCK_SIZE,
        max_requests=limits.max_requests,
        max_tokens=limits.max_tokens,
        is_deterministic=is_deterministic,
    )


def load_gpu_model(
    folder: Path,
    *,
    attention: Callable[[AttentionNeeds], AttentionBackend] = TritonAttention,
    config: EngineConfig = FLOAT32,
    limits: StepLimits = LIMITS,
    is_deterministic: bool = False,
) -> CausalLM:
    """The model of a folder in float32, ready to run; of `config` the type of the cache is looked at."""
    spec = ModelSpec.from_folder(folder)
    kv_dtype = KVLayout.of(spec, config).dtype
    needs = attention_needs(spec, limits, is_deterministic=is_deterministic, kv_dtype=kv_dtype)
    ops = GpuOps(DEVICE, torch.float32, is_deterministic=is_deterministic)
    model = load_model(folder, spec, config, DEVICE, ops=ops)
    run_on_gpu(model, Workspace(spec, limits, torch.float32, DEVICE), attention(needs))
    return model
