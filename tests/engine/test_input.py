from __future__ import annotations

import dataclasses
import itertools
import math

import msgspec
import numpy as np
import pytest

from penstock.core.kv.block_hash import hash_blocks, root_hash
from penstock.engine.input import InputProcessor, choice_seed
from penstock.errors import InvalidRequest
from penstock.sampling.limits import FLOAT_BOUNDS, INT_BOUNDS
from penstock.sampling.params import SamplingParams
from support.embedded_text import embedded_spec, embedded_tokenizer

CONTEXT = 256
EOS = 2


def processor(**options):
    options = {"max_model_len": CONTEXT, "block_size": 16, **options}
    return InputProcessor(embedded_spec(), embedded_tokenizer(), **options)


def build(prompt="Water flows", params=None, **options):
    return processor().build(prompt, params or SamplingParams(), **{"request_id": "r", **options})


def refused(name, prompt="Water flows", params=None, **options):
    """The message of the refusal, which must name that field."""
    with pytest.raises(InvalidRequest) as caught:
        build(prompt, params, **options)
    assert caught.value.field == name
    assert caught.value.status == 400
    assert name in str(caught.value)
    return str(caught.value)


BAD_VALUES = {
    "n": (0, -1, 129, 10**6, 1.5, "1", None, True),
    "max_tokens": (0, -1, 2**70, "ten", 1.0, True),
    "min_tokens": (-1, 17, 2**70, "x", None),
    "temperature": (-1, -1e-9, "hot", 1e308, [1], math.nan, math.inf, None, True),
    "top_p": (0, 0.0, 1.5, -0.1, math.nan, "x"),
    "top_k": (-5, 2**70, 1.5, None),
    "min_p": (-1, 2, math.nan),
    "presence_penalty": (9, -9, "x", math.nan),
    "frequency_penalty": (9, -9, math.inf),
    "repetition_penalty": (0, -1, 11, math.nan),
    "seed": ("x", 2**70, -(2**70), 1.5),
    "logprobs": (-5, 21, 10**6, 1.5, True),
    "prompt_logprobs": (-1, 10**6, "x"),
    "stop": ("", "x", None, ("",), (5,), ("x",) * 100_000, ("x" * 1_001,)),
    "stop_token_ids": ([10**9], [-1], "x", [1.5], [True], (1,) * 129, [49152]),
    "logit_bias": (
        {"x": 1},
        {999_999_999: 1},
        {-1: 1},
        {5: 1e9},
        {5: math.nan},
        {5: "x"},
        [5],
        dict.fromkeys(range(1_025), 1.0),
    ),
    "ignore_eos": (1, "x", None),
    "include_stop_str_in_output": (0,),
    "skip_special_tokens": ("no",),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD_VALUES.items() for value in values],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field, value):
    refused(field, params=SamplingParams(**{field: value}))


def test_every_sampling_field_has_bad_values_here():
    assert {field.name for field in msgspec.structs.fields(SamplingParams)} == set(BAD_VALUES)


def test_the_bounds_themselves_are_allowed():
    room = {"max_tokens": 200, "min_tokens": 200, "top_k": 1 << 24}
    for position in (0, 1):
        fields = {name: room.get(name, bounds[position]) for name, bounds in INT_BOUNDS.items()}
        fields |= {name: bounds[position] or 1e-3 for name, bounds in FLOAT_BOUNDS.items()}
        assert build("a", SamplingParams(**fields))
    assert build("a", SamplingParams(stop=("x" * 1_000,) * 16, stop_token_ids=(0, 49_151), logit_bias={49_151: -100}))


@pytest.mark.parametrize(
    "prompt",
    ["", [], [1, 10**9], [1, -1], [2**70], [1.5], ["a", 5], [True], [None], [[1]], np.array([1.5]), np.array([[1]])],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_prompt_is_refused(prompt):
    refused("prompt", prompt)


@pytest.mark.parametrize("prompt", ["word " * 300_000, "word " * 300, [5] * 256, [5] * 10_000_000])
def test_a_prompt_beyond_the_context_is_refused(prompt):
    assert "context" in refused("prompt", prompt)


def test_lone_surrogates_are_refused_wherever_text_comes_in():
    refused("prompt", "a\ud800b")
    refused("messages", "a\ud800b", field="messages")
    refused("cache_salt", cache_salt="\ud800")
    refused("stop", params=SamplingParams(stop=("\ud800",)))


def test_names_and_priority_have_bounds():
    refused("request_id", request_id="x" * 257)
    refused("cache_salt", cache_salt="")
    for priority in (2**31, -(2**31) - 1, "high", 1.5):
        refused("priority", priority=priority)


def test_the_context_holds_prompt_and_output_exactly():
    prompt = [5] * 56
    assert build(prompt, SamplingParams(max_tokens=200))[0].max_total == CONTEXT
    assert "context" in refused("max_tokens", prompt, SamplingParams(max_tokens=201))
    assert build([5] * 255, SamplingParams(max_tokens=1))[0].max_total == CONTEXT


def test_without_max_tokens_the_output_fills_the_context():
    assert build([5] * 10, SamplingParams(max_tokens=None))[0].max_total == CONTEXT
    assert build([5] * 10, SamplingParams(max_tokens=None, min_tokens=246))
    refused("min_tokens", [5] * 10, SamplingParams(max_tokens=None, min_tokens=247))


def test_text_and_its_token_ids_build_the_same_request():
    ids = embedded_tokenizer().encode("Water flows")
    (text,), (tokens,), (array,) = (
        build(p, SamplingParams(seed=3)) for p in ("Water flows", ids, np.array(ids, dtype=np.int64))
    )
    assert text.prompt_ids == tokens.prompt_ids == array.prompt_ids
    assert text.prompt_array().tolist() == ids
    assert text.sampling == tokens.sampling


def test_blocks_are_named_from_the_salt_on():
    ids = list(range(50))
    plain, salted = build(ids)[0], build(ids, cache_salt="tenant")[0]
    expected = hash_blocks(root_hash(), np.array(ids, dtype=np.int32), 16)
    assert plain.block_hashes == b"".join(expected)
    assert len(expected) == 3
    assert salted.root_hash == root_hash("tenant")
    assert salted.block_hashes[:16] != plain.block_hashes[:16]


def test_choices_differ_in_handle_choice_and_seed_only():
    requests = build(params=SamplingParams(n=3, seed=7), priority=2)
    assert [request.choice for request in requests] == [0, 1, 2]
    assert len({request.handle for request in requests}) == 3
    assert len({request.sampling.seed for request in requests}) == 3
    same = [
        msgspec.structs.replace(r, handle=0, choice=0, sampling=msgspec.structs.replace(r.sampling, seed=0))
        for r in requests
    ]
    assert same[0] == same[1] == same[2]
    assert same[0].priority == 2


def test_a_seed_names_the_same_choices_for_ever():
    again = [build(params=SamplingParams(n=n, seed=7))[0].sampling.seed for n in (1, 3)]
    assert again == [choice_seed(7, 0)] * 2 == [6676207051920935473] * 2
    seeds = [choice_seed(seed, choice) for seed in (-(2**63), -1, 0, 1, 2**63 - 1) for choice in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_missing_seed_is_drawn():
    draws = itertools.count(100)
    edge = processor(draw_seed=lambda: next(draws))
    seeds = [edge.build("a", SamplingParams(), request_id="r")[0].sampling.seed for _ in range(2)]
    assert seeds == [choice_seed(100, 0), choice_seed(101, 0)]
    assert build()[0].sampling.seed != build()[0].sampling.seed


def test_end_tokens_stop_unless_they_are_ignored():
    assert build()[0].stop_ids == (EOS,)
    assert build(params=SamplingParams(stop_token_ids=(7, EOS, 7)))[0].stop_ids == (EOS, 7)
    assert build(params=SamplingParams(stop_token_ids=(7,), ignore_eos=True))[0].stop_ids == (7,)


def test_prompt_logprobs_forbid_reading_the_cache():
    assert build()[0].is_cache_read_allowed
    assert not build(params=SamplingParams(prompt_logprobs=0))[0].is_cache_read_allowed


def test_arrival_is_the_clock_of_the_edge():
    edge = processor(clock=lambda: 12.5, client=3)
    request = edge.build("a", SamplingParams(), request_id="r")[0]
    assert (request.arrival, request.client, request.request_id) == (12.5, 3, "r")


def test_the_models_own_sampling_defaults_fill_what_is_not_given():
    own = {"temperature": 0.6, "top_k": 20.0, "max_length": 20}
    spec = dataclasses.replace(embedded_spec(), default_sampling=own)
    edge = InputProcessor(spec, embedded_tokenizer(), max_model_len=CONTEXT, block_size=16)
    params = edge.default_params(temperature=1.0, max_tokens=3)
    assert (params.temperature, params.top_k, params.max_tokens) == (1.0, 20, 3)
    assert edge.build("a", edge.default_params(), request_id="r")[0].sampling.temperature == 0.6
