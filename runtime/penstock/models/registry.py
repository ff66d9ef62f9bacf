"""Build a model for a device and fill it with a folder's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from penstock.config import EngineConfig
from penstock.errors import ModelError
from penstock.layers.device_ops import DeviceOps
from penstock.layers.weight_form import WeightForm
from penstock.loader.checkpoint import fill, stream_weights
from penstock.models.blocks import CausalLM
from penstock.models.spec import ModelSpec
from penstock_kernels.cpu import ops as cpu_ops
from penstock_kernels.cpu.packed_weight import ComputeType

TIED_HEAD = frozenset({"lm_head.weight"})  # some checkpoints repeat the embedding under this name
BITS = {None: None, "int8": 8, "int4": 4}


def load_model(folder: Path, spec: ModelSpec, config: EngineConfig, device: torch.device) -> CausalLM:
    """The model of a resolved folder, ready to run. Raises `ModelError` for weights that do not fit its config."""
    form = WeightForm(compute=compute_type(config), bits=BITS[config.model.quantization])
    max_length = config.model.max_model_len or spec.max_position
    model = CausalLM(spec, ops=device_ops(device), form=form, max_length=max_length)
    ignored = TIED_HEAD if spec.tie_word_embeddings else frozenset()
    with torch.inference_mode(), torch_threads(torch.get_num_threads() if form.bits else 1):
        fill(model.slots(), stream_weights(folder), ignored=ignored)
    model.prepare()
    return model


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


def device_ops(device: torch.device) -> DeviceOps:
    """The operations of a device. Raises `ModelError` for one without any."""
    if device.type == "cpu":
        return cpu_ops
    raise ModelError(f"models cannot run on {device.type} yet; use --device cpu")


def compute_type(config: EngineConfig) -> ComputeType:
    """The type of activations and unquantised weights; `auto` is bfloat16."""
    return ComputeType.FLOAT32 if config.model.dtype == "float32" else ComputeType.BFLOAT16
