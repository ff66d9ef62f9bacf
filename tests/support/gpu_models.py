"""Models as they run on a GPU: on one where there is one, else on CPU tensors in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from penstock.attention.backend import AttentionBackend, AttentionNeeds
from penstock.attention.triton import TritonAttention
from penstock.config import EngineConfig, ModelConfig
from penstock.layers.workspace import StepLimits, Workspace
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model, run_on_gpu
from penstock.models.spec import ModelSpec
from penstock_kernels.gpu.ops import GpuOps
from support.paged_run import BLOCK_SIZE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FLOAT32 = EngineConfig(model=ModelConfig(dtype="float32"))
LIMITS = StepLimits(max_tokens=64, max_requests=4)


def attention_needs(spec: ModelSpec, limits: StepLimits = LIMITS, *, is_deterministic: bool = False) -> AttentionNeeds:
    """In float32, for steps of at most so much, in blocks like those of `PagedRun`."""
    return AttentionNeeds.of(
        spec,
        device=DEVICE,
        dtype=torch.float32,
        kv_dtype=torch.float32,
        block_size=BLOCK_SIZE,
        max_requests=limits.max_requests,
        max_tokens=limits.max_tokens,
        is_deterministic=is_deterministic,
    )


def load_gpu_model(
    folder: Path, *, attention: Callable[[AttentionNeeds], AttentionBackend] = TritonAttention, **needs: bool
) -> CausalLM:
    """The model of a folder in float32, ready to run; `needs`: is_deterministic."""
    spec = ModelSpec.from_folder(folder)
    model = load_model(folder, spec, FLOAT32, DEVICE, ops=GpuOps(DEVICE, torch.float32, **needs))
    run_on_gpu(model, Workspace(spec, LIMITS, torch.float32, DEVICE), attention(attention_needs(spec, **needs)))
    return model
