"""Build a model for a device and fill it with a folder's weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock.attention.backend import AttentionBackend
from penstock.config import EngineConfig
from penstock.errors import ConfigError, ModelError
from penstock.layers.cpu_decoder import CpuDecoder
from penstock.layers.device_ops import DeviceOps
from penstock.layers.weight_form import WeightForm
from penstock.layers.workspace import Workspace
from penstock.loader.checkpoint import fill, stream_weights
from penstock.logs import event
from penstock.models.blocks import CausalLM
from penstock.models.spec import ModelSpec
from penstock_kernels.cpu import ops as cpu_ops
from penstock_kernels.cpu.packed_weight import ComputeType

if TYPE_CHECKING:
    from penstock.layers.compiled import Compiled

TIED_HEAD = frozenset({"lm_head.weight"})  # some checkpoints repeat the embedding under this name
BITS = {None: None, "int8": 8, "int4": 4}

_log = logging.getLogger(__name__)


def load_model(
    folder: Path, spec: ModelSpec, config: EngineConfig, device: torch.device, *, ops: DeviceOps | None = None
) -> CausalLM:
    """The model of a resolved folder: ready to run on the CPU; on a GPU it needs `run_on_gpu` besides.

    Each tensor goes to the device as it is read. `ops` in place of the device's own are for tests. Raises `ModelError`
    for weights that do not fit its config, `ConfigError` for a form that the device cannot multiply.
    """
    form = WeightForm(compute=compute_type(config), bits=BITS[config.model.quantization])
    ops = ops or device_ops(device, form.dtype, is_deterministic=config.compute.deterministic)
    if ops is not cpu_ops and form.bits is not None:
        raise ConfigError("quantization", f"{config.model.quantization} is computed on the CPU only; leave it out")
    max_length = config.model.max_model_len or spec.max_position
    is_float8 = config.cache.kv_cache_dtype == "fp8"
    model = CausalLM(spec, ops=ops, form=form, max_length=max_length, has_float8_cache=is_float8)
    ignored = TIED_HEAD if spec.tie_word_embeddings else frozenset()
    with torch.inference_mode(), torch_threads(torch.get_num_threads() if form.bits else 1):
        fill(model.slots(), stream_weights(folder), ignored=ignored)
    if is_float8:
        calibrated = sum(layer.kv_scales.is_calibrated for layer in model.layers)
        event(_log, "model.kv_scales", calibrated=calibrated, layers=spec.num_layers)
    if ops is cpu_ops:
        model.run_by(CpuDecoder(model.decoder_weights()))
    return model


def run_on_gpu(
    model: CausalLM, workspace: Workspace, attention: AttentionBackend, *, is_compiled: bool = False
) -> Compiled | None:
    """Let a model that was loaded onto a GPU run there, on this memory; gives what is to `compile` first, if anything
    is."""
    from penstock.layers.compiled import Compiled  # these need Triton, which machines without a GPU may lack
    from penstock.layers.gpu_decoder import GpuDecoder

    weights = model.decoder_weights()
    compiled = Compiled(weights, workspace) if is_compiled else None
    model.run_in_segments_by(GpuDecoder(weights, workspace, attention, compiled))
    return compiled


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while.

    Loading is many small copies: teams of threads make them slower (40 times, measured on a busy machine), except where
    weights are quantised.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_ops(device: torch.device, dtype: torch.dtype, *, is_deterministic: bool = False) -> DeviceOps:
    """The operations of a device with weights of a type. Raises `ModelError` for one without any."""
    if device.type == "cpu":
        return cpu_ops
    if device.type == "cuda":
        from penstock_kernels.gpu.ops import GpuOps  # needs Triton, which machines without a GPU may lack

        return GpuOps(device, dtype, is_deterministic=is_deterministic)
    raise ModelError(f"models cannot run on {device.type}; use --device cpu")


def compute_type(config: EngineConfig) -> ComputeType:
    """The type of activations and unquantised weights; `auto` is bfloat16."""
    return ComputeType.FLOAT32 if config.model.dtype == "float32" else ComputeType.BFLOAT16
