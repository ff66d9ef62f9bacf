"""Convert a GGUF file into a Hugging Face folder whose quantised weights keep their own form.

A quantised `X.weight` becomes three tensors: `X.weight` (uint8), `X.weight.scale` and `X.weight.minimum`; the header's
`quantization` says bits and group of each (`gguf_blocks` has the details).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ModelError
from penstock.loader.cache import cached
from penstock.loader.gguf_blocks import BLOCK_FORMS
from penstock.loader.gguf_config import GgufConfig
from penstock.loader.gguf_file import GgufFile, GgufTensor
from penstock.loader.gguf_tokenizer import GgufTokenizer
from penstock.loader.progress import progress_bar
from penstock.loader.tensor_file import TensorEntry, TensorGroup, write_tensors
from penstock.models.spec import ModelSpec

FORMAT_VERSION = 1  # raise it when converted folders change, so that older ones are not used any more
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
NOT_WEIGHTS = ("rope_freqs.weight",)  # part of the configuration: see GgufConfig
QUANTIZATION_SUFFIX = re.compile(r"[.-](i1-)?(I?Q\d\w*|B?F16|F32|FP16|FP32)$", re.IGNORECASE)


def model_name(path: Path) -> str:
    """The model's name: the file's, without what tells the quantisation."""
    return QUANTIZATION_SUFFIX.sub("", path.stem) or path.stem


def convert_cached(path: Path) -> Path:
    """The converted folder of a GGUF file; a file that has changed is converted again."""
    path = path.resolve()
    status = path.stat()
    key = hashlib.sha256(f"{path}:{status.st_size}:{status.st_mtime_ns}".encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]", "_", path.stem)
    return cached("gguf", f"{name}-{key}-v{FORMAT_VERSION}", lambda folder: convert(path, folder))


def convert(path: Path, folder: Path) -> None:
    """Write configuration, tokenizer and weights of a GGUF file into `folder`.

    Raises `ModelError` for what is not supported, and for a truncated or corrupt file.
    """
    file = GgufFile.open(path)
    config = GgufConfig(file)
    try:
        tokenizer = GgufTokenizer(file.metadata)
        groups, quantization = plan_tensors(file, config)
        texts = {
            "config.json": config.config_json(tokenizer),
            "generation_config.json": config.generation_json(tokenizer),
            "tokenizer.json": tokenizer.tokenizer_json(),
            "tokenizer_config.json": tokenizer.config_json(config.context_length),
        }
    except (AttributeError, TypeError, ValueError) as error:  # metadata of another type than the format says
        raise ModelError(f"{path}: corrupt GGUF metadata: {error}") from error
    ModelSpec.from_config(texts["config.json"])  # refuses what cannot be served before the slow part
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    metadata = {"format": "pt", "quantization": json.dumps(quantization)}
    with progress_bar(f"converting {model_name(path)}", len(groups)) as advance:
        write_tensors(folder / "model.safetensors", groups, metadata, advance)


def plan_tensors(file: GgufFile, config: GgufConfig) -> tuple[list[TensorGroup], dict[str, Mapping[str, int]]]:
    """What to write for each tensor, and bits and group of the quantised ones."""
    groups: list[TensorGroup] = []
    quantization: dict[str, Mapping[str, int]] = {}
    for tensor in file.tensors.values():
        if tensor.name in NOT_WEIGHTS:
            continue
        name = hub_name(file.path, tensor.name)
        rows = row_order(config, tensor)
        form = BLOCK_FORMS.get(tensor.kind)
        if form is None:
            groups.append(plain_group(name, tensor, rows))
            continue
        if len(tensor.shape) != 2:
            raise ModelError(f"{file.path}: tensor {tensor.name} is quantised but has the shape {list(tensor.shape)}")
        quantization[name] = {"bits": form.bits, "group": form.group}
        groups.append(quantized_group(name, tensor, rows))
    return groups, quantization


def hub_name(path: Path, name: str) -> str:
    """Hugging Face's name of a tensor. Raises `ModelError` for one that these architectures do not have."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        if part in LAYER_NAMES:
            return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
    stem, _, kind = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}"
    raise ModelError(f"{path}: tensor {name} does not belong to any supported architecture")


def row_order(config: GgufConfig, tensor: GgufTensor) -> NDArray[np.int64] | None:
    """Where the rows of q and k must be taken from: files of the `llama` architecture have them reordered for another
    form of RoPE. Whole rows move, so quantised groups stay as they are."""
    part = re.fullmatch(r"blk\.\d+\.attn_(q|k)\.(weight|bias)", tensor.name)
    if part is None or not config.has_reordered_heads:
        return None
    num_heads = config.num_heads if part[1] == "q" else config.num_kv_heads
    num_rows = tensor.shape[0]
    if num_rows % (2 * num_heads):
        raise ModelError(f"tensor {tensor.name} has {num_rows} rows for {num_heads} heads")
    return np.arange(num_rows).reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def plain_group(name: str, tensor: GgufTensor, rows: NDArray[np.int64] | None) -> TensorGroup:
    """A tensor that is not quantised, copied as it is."""
    entry = TensorEntry(name=name, dtype=tensor.kind, shape=tensor.shape)

    def produce() -> tuple[NDArray[Any], ...]:
        data = tensor.data
        if rows is None:
            return (data,)
        return (data[rows] if len(tensor.shape) == 2 else data.reshape(len(rows), -1)[rows],)

    return TensorGroup(entries=(entry,), produce=produce)


def quantized_group(name: str, tensor: GgufTensor, rows: NDArray[np.int64] | None) -> TensorGroup:
    """A quantised tensor: its numbers, scales and minima."""
    form = BLOCK_FORMS[tensor.kind]
    num_rows, columns = tensor.shape
    scale_dtype = {"<f2": "F16", "<f4": "F32"}[form.scale_dtype]
    scale_shape = (num_rows, columns // form.group)
    entries = (
        TensorEntry(name=name, dtype="U8", shape=(num_rows, columns * form.bits // 8)),
        TensorEntry(name=f"{name}.scale", dtype=scale_dtype, shape=scale_shape),
        TensorEntry(name=f"{name}.minimum", dtype=scale_dtype, shape=scale_shape),
    )

    def produce() -> tuple[NDArray[Any], ...]:
        with np.errstate(over="ignore", invalid="ignore"):  # of damaged scales, refused below
            planes = form.planes(tensor.data if rows is None else tensor.data[rows])
        if not all(np.isfinite(plane).all() for plane in planes[1:]):
            raise ModelError(f"tensor {tensor.name} is corrupt: it has scales that are not finite")
        return planes

    return TensorGroup(entries=entries, produce=produce)
