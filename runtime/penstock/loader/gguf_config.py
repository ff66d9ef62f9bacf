"""Read a GGUF file's model settings as Hugging Face's `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from penstock.errors import ModelError
from penstock.loader.gguf_file import GgufFile
from penstock.loader.gguf_tokenizer import GgufTokenizer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubArchitecture:
    """What an architecture of GGUF is called on the hub."""

    name: str
    model_type: str


ARCHITECTURES: Mapping[str, HubArchitecture] = MappingProxyType(
    {
        "llama": HubArchitecture(name="LlamaForCausalLM", model_type="llama"),
        "qwen2": HubArchitecture(name="Qwen2ForCausalLM", model_type="qwen2"),
        "qwen3": HubArchitecture(name="Qwen3ForCausalLM", model_type="qwen3"),
    }
)
# Llama 3.1's rescaling of RoPE comes as a table of divisors; these are the settings that it can come from.
LLAMA3_SETTINGS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
REQUIRED: Any = object()


class GgufConfig:
    """The settings of a GGUF model. Raises `ModelError` for an architecture that is not supported."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise ModelError(
                f"{file.path}: GGUF architecture {self.architecture!r} is not supported; "
                f"supported: {', '.join(ARCHITECTURES)}"
            )
        if self.setting("expert_count", 0):
            raise ModelError(f"{file.path}: mixture-of-experts models are not supported")

    def setting(self, key: str, default: Any = REQUIRED) -> Any:
        """The architecture's setting `key`. Raises `ModelError` where it is missing and has no default."""
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is REQUIRED:
            raise ModelError(f"{self.file.path}: the GGUF file has no {self.architecture}.{key}")
        return value

    def number(self, key: str, default: Any = REQUIRED) -> int:
        """The setting as a whole number of at least 1."""
        value = self.setting(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(
                f"{self.file.path}: {self.architecture}.{key} is {value}; one positive number is supported"
            )
        return value

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.number("attention.head_count")

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads."""
        return self.number("attention.head_count_kv", self.num_heads)

    @property
    def context_length(self) -> int:
        """Tokens of the context."""
        return self.number("context_length")

    @property
    def has_reordered_heads(self) -> bool:
        """Whether the rows of q and k lie in the order of interleaved RoPE."""
        return self.architecture == "llama"

    def config_json(self, tokenizer: GgufTokenizer) -> Json:
        """The content of `config.json`."""
        hub = ARCHITECTURES[self.architecture]
        embedding = self.file.tensors.get("token_embd.weight")
        if embedding is None:
            raise ModelError(f"{self.file.path}: the GGUF file has no tensor token_embd.weight")
        hidden_size = self.number("embedding_length")
        head_dim = self.number("attention.key_length", hidden_size // self.num_heads)
        for key, expected in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim)):
            if self.setting(key, expected) != expected:
                raise ModelError(f"{self.file.path}: {self.architecture}.{key} is not the head size {head_dim}")
        ends = tokenizer.eos_token_ids
        return {
            "architectures": [hub.name],
            "model_type": hub.model_type,
            "hidden_act": "silu",
            "vocab_size": embedding.shape[0],
            "hidden_size": hidden_size,
            "intermediate_size": self.number("feed_forward_length"),
            "num_hidden_layers": self.number("block_count"),
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": float(self.setting("attention.layer_norm_rms_epsilon")),
            "rope_theta": float(self.setting("rope.freq_base", 10000.0)),
            "rope_scaling": self.rope_scaling(head_dim),
            "tie_word_embeddings": "output.weight" not in self.file.tensors,
            "attention_bias": "blk.0.attn_q.bias" in self.file.tensors,
            "bos_token_id": tokenizer.token_id("bos"),
            "eos_token_id": ends if len(ends) > 1 else (ends[0] if ends else None),
        }

    def generation_json(self, tokenizer: GgufTokenizer) -> Json:
        """The content of `generation_config.json`: where text ends, and the sampling that its authors advise."""
        config: Json = {"bos_token_id": tokenizer.token_id("bos"), "eos_token_id": tokenizer.eos_token_ids or None}
        advice = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p"}
        for key, name in advice.items():
            value = self.file.metadata.get(f"general.sampling.{key}")
            if value is not None:
                config[name] = value
        return config

    def rope_scaling(self, head_dim: int) -> Json | None:
        """How RoPE is stretched beyond the context that the model was first trained with."""
        factors = self.file.tensors.get("rope_freqs.weight")
        if factors is not None:
            return self.llama3_scaling(factors.data.reshape(-1).view("<f4"), head_dim)
        kind = self.setting("rope.scaling.type", "none")
        if kind == "none":
            return None
        scaling: Json = {"rope_type": kind, "factor": float(self.setting("rope.scaling.factor"))}
        original = self.setting("rope.scaling.original_context_length", None)
        if original is not None:
            scaling["original_max_position_embeddings"] = int(original)
        return scaling

    def llama3_scaling(self, factors: np.ndarray[Any, np.dtype[np.float32]], head_dim: int) -> Json:
        """Llama 3.1's settings, found from the divisors of the frequencies. Raises `ModelError` for any others."""
        settings = LLAMA3_SETTINGS | {"factor": float(factors.max())}
        theta = float(self.setting("rope.freq_base", 10000.0))
        wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        low, high = settings["low_freq_factor"], settings["high_freq_factor"]
        smooth = np.clip((settings["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
        expected = 1 / ((1 - smooth) / settings["factor"] + smooth)
        if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
            raise ModelError(f"{self.file.path}: rope_freqs.weight holds a rescaling of RoPE that is not Llama 3.1's")
        return {"rope_type": "llama3"} | settings
