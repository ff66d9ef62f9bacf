"""What a model is, read from its `config.json`: plain numbers, no torch, so that front-ends can read it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.errors import ModelError
from penstock.models.families import FAMILIES
from penstock.models.hub_config import HubConfig, read_json

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder-only model, in Hugging Face's terms."""

    architecture: str
    vocab_size: int  # width of the logits
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    max_position: int  # the context length
    tie_word_embeddings: bool
    attention_bias: bool  # bias of q, k and v
    qk_norm: bool  # RMSNorm of each head of q and k (Qwen3)
    sliding_window: int  # 0: full attention
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    default_sampling: Mapping[str, float] = field(default_factory=dict)  # from generation_config.json
    output_bias: bool = False  # bias of the attention's output
    mlp_bias: bool = False
    full_attention_layers: frozenset[int] = frozenset()  # layers without the sliding window

    def window(self, layer: int) -> int:
        """The sliding window of a layer in tokens, its own position included; 0 means full attention."""
        return 0 if layer in self.full_attention_layers else self.sliding_window

    @classmethod
    def from_folder(cls, folder: Path) -> ModelSpec:
        """Read `config.json` and, where there are any, `generation_config.json` and the tokenizer's end-of-text token.

        Raises `ModelError` that names the offending field and what is supported.
        """
        config = read_json(folder / "config.json")
        generation_file = folder / "generation_config.json"
        generation = read_json(generation_file) if generation_file.is_file() else {}
        try:
            spec = cls.from_config(config, generation)
        except ModelError as error:
            raise ModelError(f"{folder.name}: {error}") from error
        return spec if spec.eos_token_ids else replace(spec, eos_token_ids=eos_of_tokenizer(folder))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelSpec:
        """The spec of a parsed configuration; `generation` is the content of `generation_config.json`."""
        architecture = architecture_of(config)
        generation = generation or {}
        hub = HubConfig(config)
        hub.refuse_unknown_forms()
        traits = FAMILIES[architecture](hub)
        num_heads = hub.integer("num_attention_heads")
        num_kv_heads = hub.integer("num_key_value_heads", num_heads)
        hidden_size = hub.integer("hidden_size")
        if num_heads % num_kv_heads:
            raise ModelError(f"num_attention_heads {num_heads} is not a multiple of num_key_value_heads {num_kv_heads}")
        return cls(
            architecture=architecture,
            vocab_size=hub.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=hub.integer("intermediate_size"),
            num_layers=hub.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=hub.integer("head_dim", max(hidden_size // num_heads, 1)),
            rms_norm_eps=hub.number("rms_norm_eps", 1e-6),
            rope_theta=hub.rope_theta,
            rope_scaling=hub.rope_scaling,
            max_position=hub.max_position,
            tie_word_embeddings=hub.flag("tie_word_embeddings", False),
            attention_bias=traits.attention_bias,
            output_bias=traits.output_bias,
            mlp_bias=traits.mlp_bias,
            qk_norm=traits.qk_norm,
            sliding_window=traits.sliding_window,
            full_attention_layers=traits.full_attention_layers,
            bos_token_id=next(iter(hub.token_ids("bos_token_id")), None),
            eos_token_ids=HubConfig(generation).token_ids("eos_token_id") or hub.token_ids("eos_token_id"),
            default_sampling=default_sampling(generation),
        )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that `config.json` names. Raises `ModelError` where it is none of ours."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"architecture {name!r} in config.json is not supported; supported: {', '.join(FAMILIES)}")
    return name


def default_sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    """The sampling that the model's authors advise; empty where they advise greedy decoding or nothing."""
    if generation.get("do_sample") is False:
        return {}
    found = {key: generation.get(key) for key in SAMPLING_KEYS}
    return {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def eos_of_tokenizer(folder: Path) -> tuple[int, ...]:
    """The id of the tokenizer's end-of-text token, for models whose configuration names none; else empty."""
    if not all((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        return ()
    eos = read_json(folder / "tokenizer_config.json").get("eos_token")
    text = eos.get("content") if isinstance(eos, dict) else eos
    added = read_json(folder / "tokenizer.json").get("added_tokens") or ()
    return tuple(token["id"] for token in added if token.get("content") == text)
