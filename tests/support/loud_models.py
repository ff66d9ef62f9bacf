"""Models whose keys and values no float8 holds: the same as quiet ones, where their scales are known."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NAMES = (("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"))  # of a layer's scales, by turns
SCALES = ((1024.0, 256.0), (512.0, 2048.0))  # powers of two, so that dividing by them loses no bit


def save_loud_model(quiet: Path, loud: Path, *, has_scales: bool) -> None:
    """Write the model of `quiet` with much larger keys and values, for which queries and the output make up."""
    tensors, scales = load_file(quiet / "model.safetensors"), {}
    for layer in range(sum(name.endswith("k_proj.weight") for name in tensors)):
        attention = f"model.layers.{layer}.self_attn"
        for factor, name, louder, quieter in zip(SCALES[layer % 2], NAMES[layer % 2], "kv", "qo", strict=True):
            tensors[f"{attention}.{louder}_proj.weight"] *= factor
            tensors[f"{attention}.{quieter}_proj.weight"] /= factor
            scales[f"{attention}.{name}"] = torch.tensor(factor)
    loud.mkdir(exist_ok=True)
    shutil.copy(quiet / "config.json", loud)
    save_file(tensors | (scales if has_scales else {}), loud / "model.safetensors")
