"""Tiny models with random weights, written by `transformers` itself, one for each family that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def save_tiny_model(
    folder: Path, family: str = "Llama", *, seed: int = 0, **changes: Any
) -> transformers.PreTrainedModel:
    """Write a tiny model of `family` into `folder` (no tokenizer) and return it, in float32.

    Weights are larger than at a usual start, and norms and biases not 1 and 0, so that every part of them matters.
    """
    settings = dict(SHAPE, **changes)
    if family.startswith("Qwen2"):
        settings.pop("head_dim")
        settings["hidden_size"] = 128
    config = getattr(transformers, f"{family}Config")(**settings)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2 if parameter.dim() == 1 else 0.15)
    model.save_pretrained(folder)
    return model
