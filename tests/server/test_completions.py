from __future__ import annotations

import asyncio
import json

from support.embedded_text import embedded_tokenizer
from support.scripted_llm import LOGPROB

TEXT = "The quick brown fox jumps over the lazy dog"


def ids_of(text: str) -> list[int]:
    return embedded_tokenizer().encode(text)


async def events_of(site, **body) -> list[dict]:
    """All events of a streamed completion; checks how the stream ends."""
    async with site.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = (await reply.aread()).decode()
    assert text.endswith("data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]


def joined(events: list[dict], index: int = 0) -> str:
    return "".join(c["text"] for event in events for c in event["choices"] if c["index"] == index)


async def test_an_answer_has_the_shape_of_openai(site):
    site.engine.num_cached = 3
    answer = await site.complete(TEXT, max_tokens=4, model="org/echo")
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "org/echo"
    assert answer["system_fingerprint"].startswith("penstock-")
    assert answer["choices"] == [
        {"index": 0, "text": "The quick brown fox", "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]
    num_prompt = len(ids_of(TEXT))
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 4,
        "total_tokens": num_prompt + 4,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def test_max_tokens_is_16_unless_given(site):
    assert (await site.complete(TEXT))["usage"]["completion_tokens"] == 16


async def test_a_stream_joins_to_the_whole_answer(site):
    whole = await site.complete(TEXT, max_tokens=9)
    events = await events_of(site, prompt=TEXT, max_tokens=9)
    assert joined(events) == whole["choices"][0]["text"]
    assert len({event["id"] for event in events}) == 1
    assert [event["choices"][0]["finish_reason"] for event in events if event["choices"][0]["finish_reason"]] == [
        "length"
    ]
    assert all("usage" not in event for event in events)


async def test_usage_comes_last_and_without_choices_when_asked_for(site):
    events = await events_of(site, prompt=TEXT, max_tokens=5, stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 5


async def test_every_event_carries_the_usage_so_far_when_asked_for(site):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await events_of(site, prompt=TEXT, max_tokens=5, stream_options=options)
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 5, 5]


async def test_choices_are_numbered_by_prompt_and_then_by_choice(site):
    answer = await site.complete(["one", "two", "three"], n=2, max_tokens=1)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"] for choice in answer["choices"]] == ["one", "one", "two", "two", "three", "three"]
    assert answer["usage"]["prompt_tokens"] == sum(len(ids_of(word)) for word in ("one", "two", "three"))
    events = await events_of(site, prompt=["one", "two"], n=2, max_tokens=2)
    assert [joined(events, index) for index in range(4)] == ["oneone", "oneone", "twotwo", "twotwo"]


async def test_token_ids_are_prompts_alone_and_in_batches(site):
    ids = ids_of(TEXT)
    alone = await site.complete(ids, max_tokens=4)
    batch = await site.complete([ids, ids_of("two")], max_tokens=4)
    assert alone["choices"][0]["text"] == batch["choices"][0]["text"] == "The quick brown fox"
    assert batch["choices"][1]["text"].startswith("two")


async def test_logprobs_name_tokens_alternatives_and_places(site):
    answer = await site.complete(TEXT, max_tokens=3, logprobs=2)
    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["The", " quick", " brown"]
    assert logprobs["token_logprobs"] == [LOGPROB] * 3
    assert logprobs["text_offset"] == [0, 3, 9]
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2]
    assert logprobs["top_logprobs"][1][" quick"] == LOGPROB


async def test_logprobs_0_gives_the_token_alone(site):
    answer = await site.complete(TEXT, max_tokens=1, logprobs=0)
    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"The": LOGPROB}]


async def test_streamed_logprobs_join_to_the_whole(site):
    body = {"prompt": "Grüße 🌊 naïve", "max_tokens": 12, "logprobs": 1, "echo": True}
    whole = (await site.complete(**body))["choices"][0]["logprobs"]
    parts = [event["choices"][0]["logprobs"] for event in await events_of(site, **body)]
    assert {key: [value for part in parts for value in part[key]] for key in whole} == whole


async def test_pieces_of_a_character_keep_their_own_names_and_places(site):
    logprobs = (await site.complete("🌊x", max_tokens=1, echo=True, logprobs=1))["choices"][0]["logprobs"]
    pieces = [name for name in logprobs["tokens"][:-1] if name.startswith("bytes:")]  # the last one is the answer
    assert len(pieces) > 1
    assert bytes.fromhex("".join(pieces).replace("bytes:", "").replace("\\x", "")).decode() == "🌊"
    assert logprobs["text_offset"][logprobs["tokens"].index("x")] == 1


async def test_echo_puts_the_prompt_before_the_answer(site):
    answer = await site.complete(TEXT, max_tokens=1, echo=True, logprobs=1)
    choice = answer["choices"][0]
    assert choice["text"] == TEXT + "The"
    assert choice["logprobs"]["token_logprobs"] == [None] + [LOGPROB] * len(ids_of(TEXT))
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert choice["logprobs"]["text_offset"][-1] == len(TEXT)
    assert joined(await events_of(site, prompt=ids_of(TEXT), max_tokens=1, echo=True)) == TEXT + "The"


async def test_max_tokens_0_scores_a_prompt_and_generates_nothing(site):
    answer = await site.complete(TEXT, max_tokens=0, echo=True, logprobs=1)
    assert answer["choices"][0]["text"] == TEXT
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == len(ids_of(TEXT))
    assert answer["usage"]["completion_tokens"] == 0
    refused = await site.post("/v1/completions", prompt=TEXT, max_tokens=0)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_tokens"


async def test_prompt_logprobs_have_the_shape_of_vllm(site):
    answer = await site.complete("one two", max_tokens=1, prompt_logprobs=2)
    ids = ids_of("one two")
    first, second = answer["choices"][0]["prompt_logprobs"]
    assert first is None
    assert list(second) == [str(ids[1]), str(ids[1] + 1)]
    assert second[str(ids[1])] == {"logprob": LOGPROB, "rank": 1, "decoded_token": " two"}
    events = await events_of(site, prompt="one two", max_tokens=2, prompt_logprobs=2)
    assert events[0]["choices"][0]["prompt_logprobs"] == [first, second]
    assert "prompt_logprobs" not in events[1]["choices"][0]


async def test_a_stop_string_ends_a_choice_and_is_named(site):
    answer = await site.complete(TEXT, max_tokens=30, stop=["brown", "never"])
    assert answer["choices"][0]["text"] == "The quick "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["stop_reason"] == "brown"
    await asyncio.sleep(0.01)
    assert not site.engine.running


async def test_every_sampling_field_reaches_the_engine(site):
    fields = {
        "max_tokens": 3,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 7,
        "min_p": 0.125,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.5,
        "repetition_penalty": 1.25,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
    }
    body = fields | {"stop": "x", "stop_token_ids": [9], "logit_bias": {"12": -4.5}, "priority": -3, "seed": 5}
    await site.complete("hi", **body)
    (request,) = site.engine.seen
    assert {name: getattr(request.sampling, name) for name in fields} == fields
    assert request.sampling.stop == ("x",)
    assert request.sampling.stop_token_ids == request.stop_ids == (9,)
    assert request.sampling.logit_bias == {12: -4.5}
    assert request.priority == -3
    await site.complete("hi", **body)
    assert site.engine.seen[1].sampling.seed == request.sampling.seed


async def test_null_means_the_default(site):
    await site.complete("hi", temperature=None, max_tokens=None, stop=None, n=None, logit_bias=None, user=None)
    assert site.engine.seen[0].sampling.temperature == 1.0
