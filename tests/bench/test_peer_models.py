"""The same weights for every engine."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from penstock.bench.peer_models import gguf_file, write_bf16
from penstock.loader.checkpoint import stream_weights
from penstock_kernels.cpu.quant_weight import QuantWeight
from support.embedded import embedded_folder


def test_the_bf16_folder_holds_the_dequantised_weights_and_no_others(tmp_path):
    write_bf16(embedded_folder(), tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    names = []
    for name, weight in stream_weights(embedded_folder()):
        names.append(name)
        plain = weight.dequantize() if isinstance(weight, QuantWeight) else weight
        assert torch.equal(written[name], plain.bfloat16()), name
    assert sorted(names) == sorted(written)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (tmp_path / "tokenizer.json").exists()


def test_a_gguf_model_is_its_own_file_and_other_models_have_none():
    assert str(gguf_file("some/model.gguf")) == "some/model.gguf"
    assert gguf_file("some/folder") is None
