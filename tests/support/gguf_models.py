"""Write GGUF files as llama.cpp's converter would, with the `gguf` package, from a `transformers` model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOKENS = ["<unk>", "<s>", "</s>", *(chr(0x100 + index) for index in range(316)), "\u0100\u0101"]
TOKENIZER: Mapping[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3] + [1] * 317,
    "tokenizer.ggml.merges": ["\u0100 \u0101"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}

Array = np.ndarray[Any, Any]


def quantize(weight: Array, kind: str) -> Array:
    """The blocks of `weight` [N, K]; for kinds that the package cannot write, random blocks of a similar size."""
    quant_type = gguf.GGMLQuantizationType[kind]
    if kind not in ("Q4_K", "Q6_K"):
        return gguf.quants.quantize(weight, quant_type)
    elements, size = gguf.GGML_QUANT_SIZES[quant_type]
    blocks = np.random.default_rng(weight.size).integers(
        0, 256, (len(weight), weight.shape[1] // elements, size), np.uint8
    )
    places = (0, 2) if kind == "Q4_K" else (208,)
    for place, value in zip(places, (2e-4, 1.4e-3) if kind == "Q4_K" else (5e-5,), strict=True):
        blocks[..., place : place + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    return blocks.reshape(len(weight), -1)


def reorder_heads(weight: Array, num_heads: int) -> Array:
    """llama.cpp's order of the rows of q and k in files of the `llama` architecture."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def original_heads(weight: Array, num_heads: int) -> Array:
    """The inverse of `reorder_heads`."""
    return weight.reshape(num_heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor of `transformers`."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    kind_of: Callable[[str], str],
    metadata: Mapping[str, Any] = TOKENIZER,
    extra_tensors: Mapping[str, Array] | None = None,
) -> None:
    """Write `model` with matrices of the kind that `kind_of(name)` says, and round its own weights in the same way."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    write_metadata(writer, config, metadata)
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy().copy()
        heads = 0
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weight = reorder_heads(weight, heads)
        kind = kind_of(name) if weight.ndim == 2 else "F32"
        quant_type = gguf.GGMLQuantizationType[kind]
        data = quantize(weight, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=quant_type)
        rounded = gguf.quants.dequantize(data, quant_type).reshape(weight.shape)
        rounded = original_heads(rounded, heads) if heads else rounded
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(rounded, dtype=np.float32)))
    for name, extra in (extra_tensors or {}).items():
        writer.add_tensor(name, extra)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_metadata(writer: gguf.GGUFWriter, config: Any, metadata: Mapping[str, Any]) -> None:
    """The settings of the model, then `metadata`, whose values may replace them; None leaves one out."""
    architecture = ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values: dict[str, Any] = {
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.value_length": head_dim,
        f"{architecture}.rope.dimension_count": head_dim,
        f"{architecture}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        f"{architecture}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    } | dict(metadata)
    writers = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writers[type(value)](key, value)
