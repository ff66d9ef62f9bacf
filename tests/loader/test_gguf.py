"""GGUF files: every kind of block and architecture, the converted folder, and files that are broken or unsupported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from penstock.bench.reference import reference_model
from penstock.config import EngineConfig, ModelConfig
from penstock.errors import ModelError
from penstock.loader.gguf_blocks import BLOCK_FORMS
from penstock.loader.gguf_file import BLOCKS, GgufFile
from penstock.loader.sources import resolve
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from support.gguf_models import TOKENIZER, quantize, write_gguf
from support.paged_run import PagedRun
from support.reference import reference_logits
from support.tiny_models import save_tiny_model

PROMPT = list(range(40, 75))
BIG = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 64}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))


def logits_of(path: Path, dtype: str = "float32") -> torch.Tensor:
    """What we compute from a GGUF file."""
    folder = resolve(str(path)).folder
    config = EngineConfig(model=ModelConfig(dtype=dtype))
    return PagedRun(load_model(folder, ModelSpec.from_folder(folder), config, torch.device("cpu"))).step({0: PROMPT})[0]


def tiny_file(tmp_path: Path, family: str = "Llama", **settings: Any) -> Path:
    """A small valid file."""
    model = save_tiny_model(tmp_path / "hf", family, num_hidden_layers=1)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, lambda _: "Q8_0", **settings)
    return path


@pytest.mark.parametrize("kind", BLOCK_FORMS)
def test_planes_hold_exactly_the_numbers_of_the_blocks(kind: str) -> None:
    form = BLOCK_FORMS[kind]
    blocks = quantize(np.random.default_rng(0).normal(size=(24, 512)).astype(np.float32), kind)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    data, scale, minimum = form.planes(blocks)
    numbers = data if form.bits == 8 else np.stack([data & 15, data >> 4], axis=-1).reshape(24, -1)
    grouped = numbers.reshape(24, -1, form.group).astype(np.float64)
    actual = grouped * scale.reshape(24, -1, 1).astype(np.float64) + minimum.reshape(24, -1, 1).astype(np.float64)
    np.testing.assert_allclose(actual.reshape(24, -1), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_llama_file_of_each_kind_gives_the_logits_of_transformers(kind: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "hf", "Llama", **BIG)
    write_gguf(tmp_path / "m.gguf", model, lambda _: kind)
    torch.testing.assert_close(logits_of(tmp_path / "m.gguf"), reference_logits(model, PROMPT), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("v_kind", "down_kind"), [("Q8_0", "Q4_1"), ("Q6_K", "Q6_K"), ("Q4_K", "F16")], ids=["widen", "expand", "scales"]
)
def test_mixed_kinds_within_a_layer_stay_exact(v_kind: str, down_kind: str, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "hf", "Llama", **BIG, tie_word_embeddings=True)
    kinds = {"v_proj": v_kind, "down_proj": down_kind, "embed_tokens": "Q6_K"}
    write_gguf(tmp_path / "m.gguf", model, lambda name: next((kinds[key] for key in kinds if key in name), "Q4_0"))
    torch.testing.assert_close(logits_of(tmp_path / "m.gguf"), reference_logits(model, PROMPT), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"), [("Qwen2", {}), ("Qwen3", {"tie_word_embeddings": True}), ("Mistral", {})]
)
def test_other_architectures_give_the_logits_of_transformers(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    model = save_tiny_model(tmp_path / "hf", family, **changes)
    write_gguf(tmp_path / "m.gguf", model, lambda _: "Q4_1")
    torch.testing.assert_close(logits_of(tmp_path / "m.gguf"), reference_logits(model, PROMPT), atol=2e-4, rtol=1e-4)


def test_the_reference_reads_a_converted_folder_back_exactly(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "hf", "Llama", tie_word_embeddings=True)
    write_gguf(tmp_path / "m.gguf", model, lambda _: "Q4_1")
    read_back = reference_model(resolve(str(tmp_path / "m.gguf")).folder)
    torch.testing.assert_close(
        reference_logits(read_back, PROMPT), reference_logits(model, PROMPT), atol=1e-5, rtol=1e-5
    )


def test_llama3_rope_is_found_in_its_table_of_factors(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    rope["original_max_position_embeddings"] = 8192
    model = save_tiny_model(tmp_path / "hf", "Llama", rope_parameters=rope, max_position_embeddings=16384)
    plain = 1.0 / 500000.0 ** (torch.arange(0, 32, 2) / 32)
    factors = (plain / model.model.rotary_emb.inv_freq).numpy().astype(np.float32)
    write_gguf(tmp_path / "m.gguf", model, lambda _: "F32", extra_tensors={"rope_freqs.weight": factors})
    spec = ModelSpec.from_folder(resolve(str(tmp_path / "m.gguf")).folder)
    assert spec.rope_scaling is not None
    assert {key: pytest.approx(value) for key, value in rope.items() if key != "rope_theta"} == spec.rope_scaling
    write_gguf(tmp_path / "n.gguf", model, lambda _: "F32", extra_tensors={"rope_freqs.weight": factors[::-1].copy()})
    with pytest.raises(ModelError, match="rope_freqs"):
        resolve(str(tmp_path / "n.gguf"))


def test_settings_of_the_file_reach_the_folder(tmp_path: Path) -> None:
    metadata = TOKENIZER | {"tokenizer.chat_template": "{{ messages }}", "tokenizer.ggml.eot_token_id": 5}
    metadata |= {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0, "general.sampling.temp": 0.5}
    metadata |= {"llama.rope.scaling.original_context_length": 256}
    model = resolve(str(tiny_file(tmp_path, metadata=metadata)))
    spec = ModelSpec.from_folder(model.folder)
    assert (spec.eos_token_ids, spec.bos_token_id, spec.tie_word_embeddings) == ((2, 5), 1, False)
    assert (spec.max_position, spec.default_sampling) == (512, {"temperature": 0.5})
    assert '"chat_template": "{{ messages }}"' in (model.folder / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct"),
        ("Llama-3.2-1B-Instruct-f16.gguf", "Llama-3.2-1B-Instruct"),
        ("model.gguf", "model"),
        ("Q4_0.gguf", "Q4_0"),
    ],
)
def test_the_name_is_the_files_without_its_quantisation(file: str, name: str, tmp_path: Path) -> None:
    tiny_file(tmp_path).rename(tmp_path / file)
    assert resolve(str(tmp_path / file)).name == name


def test_converts_once_and_again_when_the_file_has_changed(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    first = resolve(str(path)).folder
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve(str(path)).folder == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    write_gguf(path, save_tiny_model(tmp_path / "hf", "Llama", num_hidden_layers=2), lambda _: "Q8_0")
    assert resolve(str(path)).folder != first


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "gemma2"}, "'gemma2' is not supported; supported: llama, qwen2, qwen3"),
        ({"llama.expert_count": 8}, "mixture-of-experts"),
        ({"llama.block_count": None}, "no llama.block_count"),
        ({"llama.block_count": 0}, "block_count is 0"),
        ({"llama.attention.head_count": [4, 4]}, "head_count"),
        ({"llama.rope.dimension_count": 16}, "rope.dimension_count is not the head size"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "longrope"),
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "2 token types"),
        ({"tokenizer.ggml.merges": ["a b"]}, "merges"),
    ],
)
def test_refuses_what_is_not_supported_with_its_name(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(str(tiny_file(tmp_path, metadata=TOKENIZER | metadata)))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_refuses_a_kind_of_block_that_it_does_not_know(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "hf", "Llama", num_hidden_layers=1)
    write_gguf(tmp_path / "m.gguf", model, lambda name: "Q5_0" if "down" in name else "Q8_0")
    with pytest.raises(
        ModelError, match=r"blk\.0\.ffn_down\.weight has the type Q5_0; supported are F32, F16, BF16, Q4_0"
    ):
        resolve(str(tmp_path / "m.gguf"))


def test_refuses_tensors_that_do_not_belong(tmp_path: Path) -> None:
    extra = {"blk.0.ssm_conv.weight": np.ones((4, 4), np.float32)}
    with pytest.raises(ModelError, match=r"blk\.0\.ssm_conv\.weight"):
        resolve(str(tiny_file(tmp_path, extra_tensors=extra)))


def with_bytes(path: Path, change: Callable[[bytearray], None]) -> Path:
    """The file, changed in place."""
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(0, b"GGML", "not a GGUF file"), (4, b"\1\0\0\0", "version 1"), (4, b"\0\0\0\3", "little-endian")],
)
def test_refuses_other_formats_and_versions(position: int, value: bytes, message: str, tmp_path: Path) -> None:
    def change(content: bytearray) -> None:
        content[position : position + 4] = value

    with pytest.raises(ModelError, match=message):
        resolve(str(with_bytes(tiny_file(tmp_path), change)))


def test_a_scale_that_is_not_finite_is_corruption(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    tensor = GgufFile.open(path).tensors["blk.0.ffn_up.weight"]
    content = path.read_bytes()
    start = content.index(tensor.data.tobytes())
    path.write_bytes(content[:start] + b"\x00\x7c" + content[start + 2 :])
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight is corrupt"):
        resolve(str(path))


def test_a_file_cut_anywhere_is_a_model_error(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    content = path.read_bytes()
    header = content.index(b"blk.0.attn_norm.weight")
    for cut in (*range(0, header + 400, 37), header + 2000, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:cut])
        with pytest.raises(ModelError, match=r"tiny\.gguf"):
            resolve(str(path))


def test_bytes_changed_anywhere_in_the_header_never_end_in_another_error(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    content = path.read_bytes()
    header = content.index(b"blk.0.attn_norm.weight") + 900
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        changed = bytearray(content)
        place = int(random.integers(0, header))
        changed[place] = int(random.integers(0, 256))
        path.write_bytes(changed)
        try:
            resolve(str(path))
        except ModelError:
            refused += 1
    assert refused > 50
