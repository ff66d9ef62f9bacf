"""Typed access to Hugging Face's `config.json`: each error names the field, and values we cannot honour are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import ModelError

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
CALIBRATORS = ("compressed-tensors", "modelopt")  # whose quantization_config may be about the KV cache alone
QUANTISED_WEIGHTS = ("config_groups", "quant_algo")  # what it has then neither of
ROPE_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor",),
}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `ModelError` where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: the folder has no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return content


class HubConfig:
    """The fields of a `config.json`. A field that is null counts as absent."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def integer(self, field: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self.present(field, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelError(f"{field} in config.json is {value!r}, not a whole number of at least {least}")
        return value

    def number(self, field: str, default: float | None = None) -> float:
        """A finite positive number."""
        return positive(field, self.present(field, default))

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self.present(field, default)
        if not isinstance(value, bool):
            raise ModelError(f"{field} in config.json is {value!r}, neither true nor false")
        return value

    def token_ids(self, field: str) -> tuple[int, ...]:
        """One token id, several, or none."""
        value = self.content.get(field)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in ids):
            raise ModelError(f"{field} is {value!r}, not a token id or a list of them")
        return tuple(ids)

    def present(self, field: str, default: Any) -> Any:
        """The value, else the default. Raises `ModelError` where both are missing."""
        value = self.content.get(field)
        value = default if value is None else value
        if value is None:
            raise ModelError(f"config.json has no {field}")
        return value

    def refuse_unknown_forms(self) -> None:
        """Raise `ModelError` for settings that would change the numbers and that we do not compute."""
        for field in ("hidden_act", "hidden_activation"):
            if (act := self.content.get(field, "silu")) not in ("silu", "swish"):
                raise ModelError(f"{field} {act!r} in config.json is not supported; supported: silu")
        self._refuse_quantization()
        if self.content.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
            raise ModelError("partial_rotary_factor in config.json is not supported other than 1.0")

    def _refuse_quantization(self) -> None:
        """Raise `ModelError` for weights that are quantised; scales of a float8 cache alone are welcome."""
        found = self.content.get("quantization_config")
        if found is None:
            return
        method = found.get("quant_method") if isinstance(found, Mapping) else found
        if not isinstance(found, Mapping) or method not in CALIBRATORS or any(map(found.get, QUANTISED_WEIGHTS)):
            raise ModelError(
                f"quantization_config {method!r} in config.json is not supported; "
                "use the unquantized weights with --quantization int8 or int4, or a .gguf file"
            )
        scheme = found.get("kv_cache_scheme")
        is_float8 = isinstance(scheme, Mapping) and (scheme.get("num_bits"), scheme.get("type")) == (8, "float")
        if not (scheme in (None, "FP8") or is_float8):
            raise ModelError(f"kv_cache_scheme {scheme!r} in config.json is not supported; supported: 8-bit floats")

    @property
    def rope_parameters(self) -> Mapping[str, Any]:
        """What config.json says about RoPE, in the newer form (`rope_parameters`) or the older one (`rope_scaling`)."""
        for field in ("rope_parameters", "rope_scaling"):
            value = self.content.get(field)
            if value is not None and not isinstance(value, Mapping):
                raise ModelError(f"{field} in config.json is {value!r}, not an object")
            if value:
                return value
        return {}

    @property
    def rope_theta(self) -> float:
        """RoPE's base."""
        value = self.rope_parameters.get("rope_theta")
        return self.number("rope_theta", 10000.0) if value is None else positive("rope_parameters.rope_theta", value)

    @property
    def rope_scaling(self) -> Mapping[str, Any] | None:
        """How RoPE is rescaled (`rope_type` is one of `ROPE_TYPES` without default), or None."""
        found = dict(self.rope_parameters)
        kind = found.pop("rope_type", None) or found.pop("type", None) or "default"
        if kind not in ROPE_TYPES:
            raise ModelError(f"rope_type {kind!r} in config.json is not supported; supported: {', '.join(ROPE_TYPES)}")
        if found.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
            raise ModelError("partial_rotary_factor in config.json is not supported other than 1.0")
        if kind == "default":
            return None
        for field in ROPE_NUMBERS[kind]:
            positive(f"rope_scaling.{field}", found.get(field))
        drop = ("type", "rope_theta", "partial_rotary_factor")
        return {"rope_type": kind} | {
            key: value for key, value in found.items() if key not in drop and value is not None
        }

    @property
    def max_position(self) -> int:
        """The context length; YaRN's factor stretches the original one."""
        declared = self.integer("max_position_embeddings")
        scaling = self.rope_scaling
        if scaling is None or scaling["rope_type"] != "yarn":
            return declared
        original = scaling.get("original_max_position_embeddings", declared)
        return max(
            declared, int(positive("rope_scaling.original_max_position_embeddings", original) * scaling["factor"])
        )


def positive(field: str, value: Any) -> float:
    """`value` as a float. Raises `ModelError` where it is no finite positive number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ModelError(f"{field} in config.json is {value!r}, not a positive number")
    return float(value)
