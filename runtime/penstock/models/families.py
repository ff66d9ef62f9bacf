"""The architectures that are served, each a reading of its configuration; the computation is shared (`blocks`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from penstock.models.hub_config import HubConfig
from penstock.models.llama import llama_traits, mistral_traits
from penstock.models.qwen import qwen2_traits, qwen3_traits
from penstock.models.traits import Traits

FAMILIES: Mapping[str, Callable[[HubConfig], Traits]] = MappingProxyType(
    {
        "LlamaForCausalLM": llama_traits,
        "MistralForCausalLM": mistral_traits,
        "Qwen2ForCausalLM": qwen2_traits,
        "Qwen3ForCausalLM": qwen3_traits,
    }
)
