"""In what one family of models differs from the others."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import ModelError
from penstock.models.hub_config import HubConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """A family's choices; the rest is read from the configuration in the same way for all."""

    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int = 0
    full_attention_layers: frozenset[int] = frozenset()


def full_attention_layers(config: HubConfig) -> frozenset[int] | None:
    """The layers that `layer_types` says have full attention; None where it says nothing."""
    types = config.content.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != config.integer("num_hidden_layers"):
        raise ModelError("layer_types in config.json does not name one type for each layer")
    if unknown := [kind for kind in types if kind not in ("full_attention", "sliding_attention")]:
        raise ModelError(f"layer_types in config.json names {unknown[0]!r}, which is not supported")
    return frozenset(layer for layer, kind in enumerate(types) if kind == "full_attention")
