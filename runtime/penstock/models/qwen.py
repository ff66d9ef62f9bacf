"""Qwen2, Qwen2.5 and Qwen3, dense."""

from __future__ import annotations

from dataclasses import replace

from penstock.models.hub_config import HubConfig
from penstock.models.traits import Traits, full_attention_layers


def qwen2_traits(config: HubConfig) -> Traits:
    """Qwen2: biases of q, k and v; a sliding window, where it is used at all, only from `max_window_layers` on."""
    return replace(window_traits(config), attention_bias=True)


def qwen3_traits(config: HubConfig) -> Traits:
    """Qwen3: RMSNorm of each head of q and k; biases only where the configuration asks for them."""
    bias = config.flag("attention_bias", False)
    return replace(window_traits(config), attention_bias=bias, output_bias=bias, qk_norm=True)


def window_traits(config: HubConfig) -> Traits:
    """Qwen's sliding window: `use_sliding_window` turns it on for the layers after the first `max_window_layers`."""
    if not config.flag("use_sliding_window", False) or config.content.get("sliding_window") is None:
        return Traits()
    full = full_attention_layers(config)
    if full is None:
        full = frozenset(range(config.integer("max_window_layers", 28, least=0)))
    return Traits(sliding_window=config.integer("sliding_window"), full_attention_layers=full)
