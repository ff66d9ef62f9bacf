"""Each family as it runs on a GPU, against `transformers`, on tiny random weights in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.attention.torch import TorchAttention
from penstock.config import EngineConfig, ModelConfig
from penstock.errors import ConfigError
from penstock.loader.sources import resolve
from penstock.models.registry import device_ops, load_model
from penstock.models.spec import ModelSpec
from penstock_kernels.gpu.ops import GpuOps
from support.gguf_models import write_gguf
from support.gpu_models import DEVICE, load_gpu_model
from support.paged_run import PagedRun
from support.reference import reference_logits
from support.tiny_models import save_tiny_model

PROMPT = torch.randint(3, 320, (14,), generator=torch.Generator().manual_seed(1)).tolist()
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "head_dim": 16}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, untied": ("Llama", {"tie_word_embeddings": False}),
    "Llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama without grouped heads": ("Llama", {"num_key_value_heads": 4}),
    "Llama with groups of three and a wide MLP": (
        "Llama",
        {"num_attention_heads": 6, "hidden_size": 48, "intermediate_size": 320},
    ),
    "Mistral with a sliding window": ("Mistral", {"sliding_window": 5}),
    "Qwen2 with a sliding window in its last layer": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "Qwen3": ("Qwen3", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_gives_the_logits_of_transformers_in_prompts_chunks_decode_and_mixed_steps(case: str, tmp_path: Path) -> None:
    family, changes = CASES[case]
    expected = reference_logits(save_tiny_model(tmp_path, family, **{**SMALL, **changes}), PROMPT)
    run = PagedRun(load_gpu_model(tmp_path))
    steps = [
        {2: PROMPT[:9]},  # a prompt
        {2: PROMPT[9:10], 0: PROMPT[:6]},  # a decode beside the beginning of a prompt
        {0: PROMPT[6:11], 2: PROMPT[10:12], 1: PROMPT[:1]},  # chunks
        {1: PROMPT[1:2], 0: PROMPT[11:12], 2: PROMPT[12:13]},  # nothing but decodes
    ]
    for new in steps:
        before = list(run.num_computed)
        for row, logits in run.step(new).items():
            right = expected[before[row] : before[row] + len(new[row])]
            torch.testing.assert_close(logits, right, atol=1e-4, rtol=1e-4)


def test_a_request_has_bits_of_its_own_where_that_was_asked_for(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "Qwen2", num_hidden_layers=1)
    model = load_gpu_model(tmp_path, is_deterministic=True)
    alone, crowded = PagedRun(model), PagedRun(model)
    crowded.step({0: PROMPT[2:5]})
    expected = torch.cat([alone.step({2: part})[2] for part in (PROMPT[:6], PROMPT[6:7])])
    steps = ({0: PROMPT[5:6], 2: PROMPT[:4]}, {1: PROMPT[:1], 2: PROMPT[4:6]}, {2: PROMPT[6:7], 0: PROMPT[6:13]})
    assert torch.equal(torch.cat([crowded.step(new)[2] for new in steps]), expected)


def test_quantised_weights_of_a_file_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    model = save_tiny_model(tmp_path / "hf", num_hidden_layers=1)
    write_gguf(tmp_path / "tiny.gguf", model, lambda name: "F16" if "v_proj" in name else "Q8_0")
    folder = resolve(str(tmp_path / "tiny.gguf")).folder
    config = EngineConfig(model=ModelConfig(dtype="float32"))
    on_cpu = PagedRun(load_model(folder, ModelSpec.from_folder(folder), config, torch.device("cpu")))
    on_gpu = PagedRun(load_gpu_model(folder, attention=TorchAttention))
    torch.testing.assert_close(on_gpu.step({0: PROMPT})[0], on_cpu.step({0: PROMPT})[0], atol=1e-4, rtol=1e-4)


def test_ids_outside_the_vocabulary_read_nothing_outside(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, num_hidden_layers=1)
    model = load_gpu_model(tmp_path, attention=TorchAttention)
    last = model.spec.vocab_size - 1
    broken, kept = PagedRun(model).step({0: [-1, 1 << 30]}), PagedRun(model).step({0: [0, last]})
    assert torch.equal(broken[0], kept[0])


def test_a_gpu_has_operations_of_its_own() -> None:
    ops = device_ops(torch.device("cuda"), torch.bfloat16, is_deterministic=True)
    assert isinstance(ops, GpuOps)
    assert (ops.device.type, ops.dtype, ops.is_deterministic) == ("cuda", torch.bfloat16, True)


def test_refuses_to_quantise_for_a_gpu(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, num_hidden_layers=1)
    config = EngineConfig(model=ModelConfig(dtype="float32", quantization="int8"))
    with pytest.raises(ConfigError, match=r"quantization.*CPU only"):
        load_model(tmp_path, ModelSpec.from_folder(tmp_path), config, DEVICE, ops=GpuOps(DEVICE, torch.float32))
