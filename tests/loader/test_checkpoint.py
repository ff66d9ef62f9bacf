"""Filling a model from safetensors files: shards, strangers, gaps and damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.config import CacheConfig, EngineConfig, ModelConfig
from penstock.errors import ModelError
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from penstock_kernels.kv_scales import UNSCALED, KvScales
from support.paged_run import PagedRun
from support.tiny_models import save_tiny_model

FLOAT32 = EngineConfig(model=ModelConfig(dtype="float32"))
FLOAT8 = EngineConfig(model=ModelConfig(dtype="float32"), cache=CacheConfig(kv_cache_dtype="fp8"))
ATTENTION = "model.layers.1.self_attn"
LAST = "model.layers.2.self_attn"


def load(folder: Path, device: str = "cpu", config: EngineConfig = FLOAT32) -> CausalLM:
    return load_model(folder, ModelSpec.from_folder(folder), config, torch.device(device))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path / "tiny", tie_word_embeddings=True, max_position_embeddings=64)
    return tmp_path / "tiny"


def rewrite(folder: Path, **changes: Any) -> None:
    """Replace tensors (dots are double underscores); None removes one."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def test_shards_load_like_one_file_whatever_their_order(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "shards")
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "shards" / "model.safetensors").unlink()
    names = sorted(tensors, key=lambda name: name[::-1])
    weight_map = {}
    for shard in range(3):
        file = f"model-0000{shard + 1}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[shard::3]}, tmp_path / "shards" / file)
        weight_map |= dict.fromkeys(names[shard::3], file)
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    prompt = list(range(3, 30))
    one, three = (PagedRun(load(path)).step({0: prompt})[0] for path in (folder, tmp_path / "shards"))
    assert torch.equal(one, three)


def test_names_every_parameter_that_the_weights_lack(folder: Path) -> None:
    rewrite(folder, model__norm__weight=None, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"lack .*model\.layers\.1\.mlp\.up_proj\.weight.*model\.norm\.weight"):
        load(folder)


def test_names_every_weight_that_the_architecture_does_not_have(folder: Path) -> None:
    rewrite(folder, model__layers__0__mlp__experts__weight=torch.ones(2), model__visual__bias=torch.ones(2))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp\.experts\.weight, model\.visual\.bias"):
        load(folder)


def test_ignores_buffers_and_the_repeated_head_of_a_tied_model(folder: Path) -> None:
    before = PagedRun(load(folder)).step({0: [5, 6, 7]})[0]
    rewrite(
        folder,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16),
        lm_head__weight=torch.full((320, 64), torch.nan),
    )
    assert torch.equal(PagedRun(load(folder)).step({0: [5, 6, 7]})[0], before)


def test_a_tensor_of_another_shape_or_type_is_named(folder: Path) -> None:
    rewrite(folder, model__layers__2__self_attn__k_proj__weight=torch.ones(32, 64))
    with pytest.raises(ModelError, match=r"k_proj\.weight has the shape \[32, 64\], the configuration says \[64, 64\]"):
        load(folder)
    rewrite(folder, model__layers__2__self_attn__k_proj__weight=torch.ones(64, 64, dtype=torch.int8))
    with pytest.raises(ModelError, match=r"k_proj\.weight has the type"):
        load(folder)


def test_float16_and_bfloat16_checkpoints_load(folder: Path) -> None:
    expected = PagedRun(load(folder)).step({0: [5, 6, 7]})[0]
    original = load_file(folder / "model.safetensors")
    for dtype, tolerance in ((torch.float16, 0.02), (torch.bfloat16, 0.15)):
        save_file({name: tensor.to(dtype) for name, tensor in original.items()}, folder / "model.safetensors")
        torch.testing.assert_close(PagedRun(load(folder)).step({0: [5, 6, 7]})[0], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("keep", [4, 100, -1000])
def test_a_truncated_file_is_a_model_error(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: truncated or corrupt"):
        load(folder)


def test_another_device_is_refused_with_a_message(folder: Path) -> None:
    with pytest.raises(ModelError, match="--device cpu"):
        load(folder, "mps")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("k_scale", "v_scale"), KvScales(key=0.5, value=0.25)),
        (("k_proj.k_scale", "v_proj.v_scale"), KvScales(key=0.5, value=0.25)),
        (("attn.k_scale", "attn.v_scale"), KvScales(key=0.5, value=0.25)),
        (("k_proj.output_scale", "v_proj.output_scale"), KvScales(key=0.5, value=0.25)),
        (("kv_scale",), KvScales(key=0.5, value=0.5)),
        (("v_scale",), KvScales(value=0.5)),
        (("k_scale", "attn.k_scale"), KvScales(key=0.5)),
        ((), UNSCALED),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_scales_of_a_float8_cache_are_read_however_they_are_spelled(
    folder: Path, names: tuple[str, ...], found: KvScales, shape: tuple[int, ...]
) -> None:
    values = dict(zip(names, (0.5, 0.25), strict=False))
    rewrite(folder, **{f"{ATTENTION}.{name}": torch.full(shape, value) for name, value in values.items()})
    assert load(folder, config=FLOAT8).decoder_weights().kv_scales == [UNSCALED, found, UNSCALED]


@pytest.mark.parametrize(
    ("name", "scale", "said"),
    [
        ("k_scale", torch.tensor(0.0), "k_scale is 0, not a positive number"),
        ("attn.v_scale", torch.tensor(-1.0), "attn.v_scale is -1, not"),
        ("k_proj.k_scale", torch.tensor([torch.nan]), "k_proj.k_scale is nan, not"),
        ("kv_scale", torch.tensor(torch.inf), "kv_scale is inf, not"),
        ("v_scale", torch.ones(2), r"v_scale has the shape \[2\], the configuration says \[\]"),
        ("k_scale", torch.tensor(3), "k_scale has the type torch.int64, not a floating-point one"),
    ],
)
def test_a_scale_that_is_none_is_named_where_the_cache_is_float8_and_ignored_elsewhere(
    folder: Path, name: str, scale: torch.Tensor, said: str
) -> None:
    rewrite(folder, **{f"{LAST}.{name}": scale})
    with pytest.raises(ModelError, match=f"^{LAST}.{said}"):
        load(folder, config=FLOAT8)
    assert load(folder).decoder_weights().kv_scales == [UNSCALED] * 3


def test_weights_in_8_bits_are_not_taken_for_plain_ones(folder: Path) -> None:
    rewrite(folder, model__layers__2__self_attn__k_proj__weight=torch.ones(64, 64).to(torch.float8_e4m3fn))
    with pytest.raises(ModelError, match=r"k_proj\.weight has the type torch\.float8_e4m3fn"):
        load(folder)
