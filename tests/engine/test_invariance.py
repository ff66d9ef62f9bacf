"""How the work was cut up must not show: chunks, batches, cache hits, preemption and pipeline depth change no token."""

from __future__ import annotations

import pytest

from penstock import LLM, SamplingParams

STORY = "The river carries water from the mountains to the sea, past farms, mills and towns. " * 6
PROMPTS = [STORY + "In short:", STORY + "The people", "Once upon a time", "def add(a, b):", "1, 2, 3, 4,", STORY[:200]]
PARAMS = [
    SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True),
    SamplingParams(max_tokens=24, temperature=0.9, seed=5, top_p=0.95, ignore_eos=True),
    SamplingParams(max_tokens=24, temperature=0.8, seed=6, presence_penalty=0.5, repetition_penalty=1.2, min_tokens=20),
    SamplingParams(max_tokens=24, temperature=0.7, seed=7, top_k=20, logprobs=3),
    SamplingParams(max_tokens=24, temperature=0.0, stop=("9", "\n\n"), frequency_penalty=0.3),
    SamplingParams(max_tokens=8, temperature=0.0, prompt_logprobs=1, logit_bias={260: -5.0}),
]
FORMS = {"float32": {"dtype": "float32"}, "deterministic": {"deterministic": True}}


def run(form: str, *, alone: bool = False, repeat: bool = False, **settings):
    """Everything a client could see of the answers."""
    with LLM(**{"max_model_len": 512, "kv_cache_memory": "64MiB", **FORMS[form], **settings}) as llm:
        if alone:
            outputs = [llm.generate(p, s, use_tqdm=False)[0] for p, s in zip(PROMPTS, PARAMS, strict=True)]
        else:
            outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
        if repeat:
            outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
            assert outputs[0].num_cached_tokens >= 96
        preemptions = llm.stats().num_preemptions
    return [
        (
            output.outputs[0].text,
            output.outputs[0].token_ids,
            output.outputs[0].finish_reason,
            output.outputs[0].stop_reason,
            output.outputs[0].logprobs is None or len(output.outputs[0].logprobs),
            output.prompt_logprobs is None or len(output.prompt_logprobs),
        )
        for output in outputs
    ], preemptions


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def expected(form):
    return run(form, alone=True)[0]


def test_the_batch_around_a_request_changes_nothing(form, expected):
    assert run(form)[0] == expected


@pytest.mark.parametrize("budget", [32, 77])
def test_chunk_sizes_change_nothing(form, expected, budget):
    assert run(form, max_num_batched_tokens=budget, max_num_seqs=8)[0] == expected


def test_prefix_hits_change_nothing(form, expected):
    assert run(form, repeat=True)[0] == expected


def test_the_prefix_cache_may_be_off(form, expected):
    assert run(form, enable_prefix_caching=False)[0] == expected


def test_block_sizes_change_nothing(form, expected):
    assert run(form, block_size=32)[0] == expected


def test_preemption_in_the_middle_changes_nothing(form, expected):
    page = 30 * 3 * 2 * 16 * 64 * (4 if form == "float32" else 2)  # bytes of a block of 16 tokens, all layers
    answers, preemptions = run(form, kv_cache_memory=20 * page, max_model_len=256, enable_prefix_caching=False)
    assert preemptions > 0
    assert answers == expected
