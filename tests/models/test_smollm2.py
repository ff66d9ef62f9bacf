"""The embedded model with its real weights, against `transformers` in float32 on the same (expanded) weights."""

from __future__ import annotations

import time

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from penstock.bench.fidelity import build_prompts, measure
from penstock.bench.reference import reference_model
from penstock.config import EngineConfig, ModelConfig
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from support.embedded import embedded_folder
from support.paged_run import PagedRun
from support.reference import reference_logits

QUESTIONS = ("What is the capital of France?", "Write a haiku about rain.", "def fibonacci(n):", "1, 2, 3, 5, 8,")


@pytest.fixture(scope="module")
def reference() -> transformers.PreTrainedModel:
    return reference_model(embedded_folder())


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(embedded_folder() / "tokenizer.json"))
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tokenizer.encode(chat.format(question)).ids for question in QUESTIONS]


def load(dtype: str) -> CausalLM:
    config = EngineConfig(model=ModelConfig(dtype=dtype, max_model_len=256))
    return load_model(embedded_folder(), ModelSpec.from_folder(embedded_folder()), config, torch.device("cpu"))


@pytest.mark.slow
def test_each_of_200_greedy_answers_is_the_references_best(reference: transformers.PreTrainedModel) -> None:
    seen = measure(embedded_folder(), reference, build_prompts(), 64, dtype="float32")
    assert seen.worst_gap < 1e-3


def test_prompt_logits_are_the_references(reference: transformers.PreTrainedModel, prompts: list[list[int]]) -> None:
    logits = PagedRun(load("float32")).step(dict(enumerate(prompts)))
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], reference_logits(reference, prompt), atol=1e-3, rtol=1e-4)


def test_bfloat16_agrees_with_the_reference_on_likely_tokens(
    reference: transformers.PreTrainedModel, prompts: list[list[int]]
) -> None:
    """Integer activations on 4-bit weights: the mean divergence of the next-token distributions stays small."""
    logits = PagedRun(load("auto"), dtype=torch.bfloat16).step(dict(enumerate(prompts)))
    for row, prompt in enumerate(prompts):
        expected = reference_logits(reference, prompt).log_softmax(-1)
        divergence = (expected.exp() * (expected - logits[row].log_softmax(-1))).sum(-1)
        assert 0 < divergence.mean() < 0.02


def test_loads_in_about_a_second_and_stays_in_four_bits() -> None:
    load("auto")
    start = time.process_time()
    model = load("auto")
    assert time.process_time() - start < 2  # of the processor, so that a busy machine does not matter; usually 0.2
    assert model.weights_nbytes < 130e6
