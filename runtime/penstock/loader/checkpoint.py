"""Stream a folder's safetensors weights into a model, one tensor at a time, mapped and not copied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from penstock.errors import ModelError
from penstock.layers.parameters import Slot
from penstock.layers.weight_form import Weight, shape_of
from penstock.loader.sources import weight_files
from penstock_kernels.cpu.quant_weight import QuantWeight

PARTS = (".scale", ".minimum")  # of a quantised weight, beside it


def stream_weights(folder: Path) -> Iterator[tuple[str, Weight]]:
    """(name, weight) of all tensors, each a view of the mapped file. Raises `ModelError` for broken files."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                forms = quantization_of(path, file.metadata() or {})
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    if not any(
                        name == f"{weight}{part}" for part in PARTS if (weight := name.removesuffix(part)) in forms
                    ):
                        yield name, read_weight(file, name, forms.get(name))
        except SafetensorError as error:
            raise ModelError(f"{path}: truncated or corrupt safetensors file: {error}") from error


def quantization_of(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, int]]:
    """Bits and group of the quantised weights, by name."""
    try:
        forms = json.loads(metadata.get("quantization", "{}"))
        return {name: {"bits": int(form["bits"]), "group": int(form["group"])} for name, form in forms.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: unknown quantization in the header") from error


def read_weight(file: Any, name: str, form: Mapping[str, int] | None) -> Weight:
    """One weight, put together from its parts if it is quantised."""
    data: Tensor = file.get_tensor(name)
    if form is None:
        return data
    scale, minimum = (file.get_tensor(f"{name}{part}") for part in PARTS)
    return QuantWeight(bits=form["bits"], data=data, scale=scale, minimum=minimum, group=form["group"])


def fill(slots: Mapping[str, Slot], weights: Iterator[tuple[str, Weight]], *, ignored: frozenset[str]) -> None:
    """Load every weight into its slot.

    Raises `ModelError` that names every parameter without a tensor, every tensor without a parameter (buffers, scales
    that nobody asked for and `ignored` apart), or the first tensor of another shape.
    """
    missing = {name: None for name, slot in slots.items() if not slot.is_optional}
    unexpected = []
    for name, weight in weights:
        slot = slots.get(name)
        if slot is None:
            if name.endswith((".weight", ".bias")) and name not in ignored:
                unexpected.append(name)
            continue
        if shape_of(weight) != slot.shape and (shape_of(weight), slot.shape) != ((1,), ()):
            raise ModelError(
                f"{name} has the shape {list(shape_of(weight))}, the configuration says {list(slot.shape)}"
            )
        if not isinstance(weight, QuantWeight) and not (weight.is_floating_point() and weight.itemsize > 1):
            raise ModelError(f"{name} has the type {weight.dtype}, not a floating-point one of 16 bits or more")
        slot.load(weight)
        missing.pop(name, None)
    if missing:
        raise ModelError(f"the weights lack {', '.join(missing)}")
    if unexpected:
        raise ModelError(f"the weights have tensors that the architecture does not: {', '.join(unexpected)}")
