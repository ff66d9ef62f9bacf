"""Checkpoints with random weights in the shape of well-known models: nothing has to be fetched to measure speed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STD = 0.02  # of all weights but norms, which are 1
SHARD_BYTES = 2 << 30

LLAMA_3_1_8B: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
)
QWEN3_0_6B: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    }
)
TINY: Mapping[str, Any] = MappingProxyType(
    {
        **LLAMA_3_1_8B,
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
    }
)
SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"llama-3.1-8b": LLAMA_3_1_8B, "qwen3-0.6b": QWEN3_0_6B, "tiny": TINY}
)
"""Names that `--random` takes."""


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a checkpoint: its name and shape."""
    hidden, width, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    parts = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (width, hidden),
        "mlp.up_proj": (width, hidden),
        "mlp.down_proj": (hidden, width),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    if config["model_type"] == "qwen3":
        parts |= {"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)}
    for layer in range(config["num_hidden_layers"]):
        for part, shape in parts.items():
            yield f"model.layers.{layer}.{part}.weight", shape
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def num_parameters(config: Mapping[str, Any]) -> int:
    """Of all tensors together."""
    total = 0
    for _, shape in tensor_shapes(config):
        count = 1
        for length in shape:
            count *= length
        total += count
    return total


def write_random_model(folder: Path, config: Mapping[str, Any], device: torch.device) -> None:
    """Fill `folder` with a checkpoint in bf16 (drawn on `device`), its configuration and a tokenizer of bytes."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator(device).manual_seed(0)
    shard: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    shards = size = 0

    def save() -> None:
        nonlocal shard, shards, size
        shards += 1
        file = f"model-{shards:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, file))
        shard, size = {}, 0

    for name, shape in tensor_shapes(config):
        drawn = torch.empty(shape, dtype=torch.bfloat16, device=device)
        shard[name] = (drawn.fill_(1.0) if len(shape) == 1 else drawn.normal_(0, STD, generator=generator)).cpu()
        size += shard[name].nbytes
        if size >= SHARD_BYTES:
            save()
    save()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ends = {"bos_token_id": None, "eos_token_id": None, "hidden_act": "silu", "attention_bias": False}
    (folder / "config.json").write_text(json.dumps({**config, **ends, "torch_dtype": "bfloat16"}))
    write_tokenizer(folder, config["vocab_size"])


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """One token for each byte, and words of no meaning up to the size of the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"w{index}" for index in range(len(letters), vocab_size))]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
