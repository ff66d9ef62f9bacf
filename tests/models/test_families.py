"""Each family against `transformers`, on tiny random weights in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.config import EngineConfig, ModelConfig
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from support.paged_run import PagedRun
from support.reference import reference_greedy, reference_logits
from support.tiny_models import FAMILIES, save_tiny_model

FLOAT32 = EngineConfig(model=ModelConfig(dtype="float32"))
PROMPT = torch.randint(3, 320, (53,), generator=torch.Generator().manual_seed(1)).tolist()
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {"tie_word_embeddings": False}) for family in FAMILIES},
    **{f"{family}, tied": (family, {"tie_word_embeddings": True}) for family in FAMILIES},
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Qwen3 with biases": ("Qwen3", {"attention_bias": True}),
    "Llama without grouped heads": ("Llama", {"num_key_value_heads": 4}),
    "Mistral with a sliding window": ("Mistral", {"sliding_window": 12}),
    "Qwen2 with a sliding window in its last layer": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2},
    ),
    "linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "dynamic rope": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama3 rope": ("Llama", {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}}),
    "yarn rope": ("Qwen3", {"rope_parameters": {**YARN, "rope_theta": 10000.0}}),
    "yarn rope with its own ramp": (
        "Llama",
        {
            "rope_parameters": {
                **YARN,
                "rope_theta": 10000.0,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 1.3,
            }
        },
    ),
}


def load(folder: Path, config: EngineConfig = FLOAT32) -> CausalLM:
    return load_model(folder, ModelSpec.from_folder(folder), config, torch.device("cpu"))


@pytest.mark.parametrize("case", CASES)
def test_gives_the_logits_of_transformers_in_one_pass_in_chunks_and_in_decode_steps(case: str, tmp_path: Path) -> None:
    family, changes = CASES[case]
    reference = save_tiny_model(tmp_path, family, **changes)
    expected = reference_logits(reference, PROMPT)
    run = PagedRun(load(tmp_path))
    whole = run.step({0: PROMPT})[0]
    chunked = run.in_chunks(1, PROMPT, 7)
    decoded = torch.cat([run.step({2: PROMPT[:40]})[2], run.in_chunks(2, PROMPT[40:], 1)])
    for logits in (whole, chunked, decoded):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gives_the_greedy_tokens_of_transformers(family: str, tmp_path: Path) -> None:
    reference = save_tiny_model(tmp_path, family, seed=3)
    assert PagedRun(load(tmp_path)).greedy({0: PROMPT[:11]}, 24) == {0: reference_greedy(reference, PROMPT[:11], 24)}


def test_a_batch_of_prompts_and_decodes_gives_what_each_gives_alone(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    model = load(tmp_path)
    together, alone = PagedRun(model), PagedRun(model)
    together.step({2: PROMPT[:20]})
    mixed = together.step({3: PROMPT[5:36], 2: PROMPT[20:21], 0: PROMPT[:3]})
    torch.testing.assert_close(mixed[3], alone.step({3: PROMPT[5:36]})[3])
    torch.testing.assert_close(mixed[0], alone.step({0: PROMPT[:3]})[0])
    torch.testing.assert_close(mixed[2][0], alone.step({2: PROMPT[:21]})[2][-1])


def test_tied_embedding_and_head_are_one_weight(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    save_tiny_model(tmp_path / "untied", tie_word_embeddings=False)
    tied, untied = load(tmp_path / "tied"), load(tmp_path / "untied")
    assert tied.head.packed is tied.embedding.packed
    assert untied.weights_nbytes - tied.weights_nbytes == untied.head.packed.nbytes


@pytest.mark.parametrize(("quantization", "worst"), [("int8", 0.05), ("int4", 0.6)])
def test_quantizes_while_loading(quantization: str, worst: float, tmp_path: Path) -> None:
    reference = save_tiny_model(tmp_path, "Qwen2")
    config = EngineConfig(model=ModelConfig(dtype="float32", quantization=quantization))
    model, full = load(tmp_path, config), load(tmp_path)
    logits, expected = PagedRun(model).step({0: PROMPT})[0], reference_logits(reference, PROMPT)
    error = ((logits - expected).square().mean() / expected.square().mean()).sqrt()
    assert 1e-5 < error < worst
    assert model.weights_nbytes < 0.45 * full.weights_nbytes


def test_bfloat16_stays_near_the_reference(tmp_path: Path) -> None:
    reference = save_tiny_model(tmp_path)
    model = load(tmp_path, EngineConfig())
    logits = PagedRun(model, dtype=torch.bfloat16).step({0: PROMPT})[0]
    expected = reference_logits(reference, PROMPT)
    error = ((logits - expected).square().mean() / expected.square().mean()).sqrt()
    assert 1e-5 < error < 0.03
