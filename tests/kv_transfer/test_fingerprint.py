from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from penstock.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from penstock.errors import ModelError
from penstock.kv_transfer.fingerprint import fingerprint_of

CONFIG = EngineConfig()


@pytest.fixture
def folder(tmp_path):
    header = b'{"w": {}}'
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    data = len(header).to_bytes(8, "little") + header + bytes(range(256)) * 8192
    (tmp_path / "model.safetensors").write_bytes(data)
    return tmp_path


def test_it_is_the_same_for_the_same_model_in_another_folder(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert fingerprint_of(CONFIG, folder, 1) == fingerprint_of(CONFIG, other, 1)
    assert len(fingerprint_of(CONFIG, folder, 1)) == 32


def test_auto_is_the_type_that_it_stands_for(folder):
    named = EngineConfig(model=ModelConfig(dtype="bfloat16"), cache=CacheConfig(kv_cache_dtype="bfloat16"))
    assert fingerprint_of(CONFIG, folder, 1) == fingerprint_of(named, folder, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"model": ModelConfig(dtype="float32")},
        {"model": ModelConfig(quantization="int8")},
        {"cache": CacheConfig(block_size=32)},
        {"cache": CacheConfig(kv_cache_dtype="float32")},
    ],
    ids=str,
)
def test_whatever_changes_the_bytes_of_a_block_changes_it(folder, change):
    assert fingerprint_of(dataclasses.replace(CONFIG, **change), folder, 1) != fingerprint_of(CONFIG, folder, 1)
    assert fingerprint_of(CONFIG, folder, 2) != fingerprint_of(CONFIG, folder, 1)


def test_what_does_not_leaves_it_as_it_is(folder):
    other = dataclasses.replace(CONFIG, scheduler=SchedulerConfig(max_num_seqs=3))
    assert fingerprint_of(other, folder, 1) == fingerprint_of(CONFIG, folder, 1)


def test_another_scale_changes_it(tmp_path):
    found = set()
    for scale in (1.0, 0.5):
        weights = {"a": torch.zeros(1 << 20), "b": torch.tensor(scale), "c": torch.zeros(1 << 20)}
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        found.add(fingerprint_of(CONFIG, tmp_path, 1))
    assert len(found) == 2


@pytest.mark.parametrize(
    "header", ["{", "[]", '{"w": {"data_offsets": [-9000, -8999]}}', f'{{"w": {{"data_offsets": [{2**70}, {2**70}]}}}}']
)
def test_a_broken_header_is_left_to_who_loads_the_weights(folder, header):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert len(fingerprint_of(CONFIG, folder, 1)) == 32


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_another_file_changes_it(folder, name):
    before = fingerprint_of(CONFIG, folder, 1)
    (folder / name).write_text("{ }")
    assert fingerprint_of(CONFIG, folder, 1) != before


@pytest.mark.parametrize("at", [0, 10, 30, 5000, -1])
def test_other_weights_change_it(folder, at):
    before, file = fingerprint_of(CONFIG, folder, 1), folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    if at == 5000:  # somewhere between the samples only fine-tuning, which changes everything, is seen
        data[100:] = bytes(value ^ 1 for value in data[100:])
    else:
        data[at] ^= 1
    file.write_bytes(data)
    assert fingerprint_of(CONFIG, folder, 1) != before


def test_a_folder_without_weights_is_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="no safetensors file"):
        fingerprint_of(CONFIG, tmp_path, 1)
