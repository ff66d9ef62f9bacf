"""Reading `config.json`: what is taken, what is refused, and that the message names the field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ModelError
from penstock.models.spec import ModelSpec

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"]}


def test_reads_the_older_and_the_newer_form_of_rope_alike() -> None:
    older = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    newer = LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert ModelSpec.from_config(older) == ModelSpec.from_config(newer)
    assert ModelSpec.from_config(newer).rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert ModelSpec.from_config(newer).rope_theta == 5e5


def test_fills_in_what_old_configurations_leave_out() -> None:
    spec = ModelSpec.from_config({key: value for key, value in LLAMA.items() if key != "num_key_value_heads"})
    assert (spec.num_kv_heads, spec.head_dim, spec.rope_theta, spec.rope_scaling) == (4, 16, 10000.0, None)
    assert (spec.tie_word_embeddings, spec.attention_bias, spec.bos_token_id) == (False, False, None)


def test_yarn_stretches_the_context() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert ModelSpec.from_config(LLAMA | {"rope_scaling": yarn}).max_position == 512


def test_qwen_uses_its_window_only_where_it_says_so() -> None:
    window = {"sliding_window": 32, "max_window_layers": 3}
    unused = ModelSpec.from_config(QWEN2 | window | {"use_sliding_window": False})
    used = ModelSpec.from_config(QWEN2 | window | {"use_sliding_window": True})
    assert [unused.window(layer) for layer in range(4)] == [0, 0, 0, 0]
    assert [used.window(layer) for layer in range(4)] == [0, 0, 0, 32]


def test_generation_config_wins_and_gives_default_sampling() -> None:
    generation = {
        "eos_token_id": [7, 2],
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "do_sample": True,
        "max_length": 5,
    }
    spec = ModelSpec.from_config(LLAMA, generation)
    assert spec.eos_token_ids == (7, 2)
    assert spec.default_sampling == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert ModelSpec.from_config(LLAMA, generation | {"do_sample": False}).default_sampling == {}


def test_takes_the_end_of_text_from_the_tokenizer_when_nothing_else_names_it(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "eos_token_id"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    added = [{"id": 1, "content": "<s>"}, {"id": 9, "content": "</s>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert ModelSpec.from_folder(tmp_path).eos_token_ids == (9,)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*supported: LlamaForCausalLM, Mistral"),
        ({"architectures": None}, "architecture None"),
        ({"architectures": [["x"]]}, "architecture"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config 'gptq'.*--quantization"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}},
            "compressed-",
        ),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "quantization_config 'modelopt'"),
        ({"quantization_config": {"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 4}}}, "kv_cache_scheme"),
        ({"quantization_config": {"quant_method": "modelopt", "kv_cache_scheme": "NVFP4"}}, "kv_cache_scheme 'NVFP4'"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope'.*supported: default, linear"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_attention_heads": 3}, "num_attention_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 8, "layer_types": ["full_attention"]},
            "layer_types",
        ),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 8, "layer_types": [{}] * 4}, "layer_types"),
    ],
)
def test_refuses_what_it_cannot_honour_and_names_it(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        ModelSpec.from_config(LLAMA | changes)


@pytest.mark.parametrize(
    "quantization",
    [
        {
            "quant_method": "compressed-tensors",
            "config_groups": {},
            "kv_cache_scheme": {"num_bits": 8, "type": "float"},
        },
        {"quant_method": "modelopt", "quant_algo": None, "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {"quant_method": "modelopt", "kv_cache_scheme": "FP8"},
        {"quant_method": "compressed-tensors", "kv_cache_scheme": None},
    ],
)
def test_a_checkpoint_with_nothing_quantised_but_the_cache_is_welcome(quantization: dict[str, Any]) -> None:
    assert ModelSpec.from_config(LLAMA | {"quantization_config": quantization}) == ModelSpec.from_config(LLAMA)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": ' * 100_000, "\udcff"])
def test_a_broken_config_file_is_a_model_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json"):
        ModelSpec.from_folder(tmp_path)


def test_needs_no_torch() -> None:
    code = (
        "import sys, penstock.models.spec, penstock.loader.sources; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
