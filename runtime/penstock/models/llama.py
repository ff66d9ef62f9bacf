"""Llama 1 to 3.x and what shares its architecture (SmolLM2 among others), and Mistral."""

from __future__ import annotations

from penstock.models.hub_config import HubConfig
from penstock.models.traits import Traits, full_attention_layers


def llama_traits(config: HubConfig) -> Traits:
    """Llama: full attention; one setting for the biases of q, k, v and the output."""
    bias = config.flag("attention_bias", False)
    return Traits(attention_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias", False))


def mistral_traits(config: HubConfig) -> Traits:
    """Mistral: Llama without biases, in its first version with a sliding window in every layer."""
    if config.content.get("sliding_window") is None:
        return Traits()
    return Traits(
        sliding_window=config.integer("sliding_window"),
        full_attention_layers=full_attention_layers(config) or frozenset(),
    )
