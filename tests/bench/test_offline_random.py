"""Whole models with random weights: what they cost, and how idle a device was."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from penstock.bench.offline_random import check_device, decode_cost
from penstock.bench.own_gpu_engine import idle_share
from penstock.bench.random_model import SHAPES, num_parameters, tensor_shapes, write_random_model
from penstock.errors import ConfigError
from penstock.models.spec import ModelSpec
from penstock.tokenizer import Tokenizer


def test_shapes_are_those_of_the_models_that_they_are_named_after():
    assert num_parameters(SHAPES["llama-3.1-8b"]) == 8_030_261_248
    assert num_parameters(SHAPES["qwen3-0.6b"]) == 596_049_920


def test_a_decode_step_reads_all_weights_but_an_embedding_table_that_is_not_the_head():
    llama, qwen = (ModelSpec.from_config(SHAPES[name]) for name in ("llama-3.1-8b", "qwen3-0.6b"))
    table, norms = 128256 * 4096, (2 * 32 + 1) * 4096
    assert decode_cost(llama).weight_bytes == 2 * (8_030_261_248 - table - norms)
    norms = (2 * 28 + 1) * 1024 + 28 * 2 * 128
    assert decode_cost(qwen).weight_bytes == 2 * (596_049_920 - norms)
    assert decode_cost(llama).kv_bytes == 32 * 2 * 8 * 128 * 2


def test_a_checkpoint_has_every_tensor_in_bf16_and_a_tokenizer_of_every_id(tmp_path):
    write_random_model(tmp_path, SHAPES["tiny"], torch.device("cpu"))
    places = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    shapes = dict(tensor_shapes(SHAPES["tiny"]))
    assert set(places) == set(shapes)
    with safe_open(tmp_path / places["lm_head.weight"], framework="pt") as file:
        weight = file.get_tensor("lm_head.weight")
        norm = file.get_tensor("model.norm.weight")
    assert tuple(weight.shape) == shapes["lm_head.weight"]
    assert weight.dtype == torch.bfloat16
    assert 0.015 < float(weight.float().std()) < 0.025
    assert bool((norm == 1).all())
    assert ModelSpec.from_folder(tmp_path).num_layers == 2
    assert Tokenizer.from_folder(tmp_path).decode([3, 319])


def test_idle_time_is_what_no_work_covers_in_the_steady_part():
    # steady: 50 to 95 of 100; gaps there: 60 to 70, 80 to 82
    work = [(0.0, 60.0), (10.0, 20.0), (70.0, 80.0), (82.0, 100.0)]
    assert idle_share(work, 5.0) == pytest.approx(10 / 45)
    assert idle_share(work, 1.0) == pytest.approx(12 / 45)
    assert idle_share(reversed(work), 20.0) == 0


def test_a_device_that_did_nothing_has_no_share():
    assert idle_share([], 1.0) != idle_share([], 1.0)


def test_asking_for_a_gpu_that_is_not_there_names_the_flag(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="use --device cpu"):
        check_device("cuda")
