"""The official client against `penstock serve` with two front-ends and the embedded model."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from penstock_kernels.cpu import ops
from support.serving import wait_for

MODEL = "SmolLM2-135M-Instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in English."}]


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(served):
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_synchronous_client_chats(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=24)
    assert "Paris" in answer.choices[0].message.content
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=24, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer.choices[0].message.content


def test_a_connection_that_a_client_still_keeps_is_not_closed(served):
    url = httpx.URL(served.url)
    with contextlib.closing(http.client.HTTPConnection(url.host, url.port, timeout=10)) as connection:
        connection.connect()
        socket = connection.sock
        for pause in (0, 5.5):  # httpx keeps connections for 5 s
            time.sleep(pause)
            connection.request("GET", "/livez")
            connection.getresponse().read()
            assert connection.sock is socket


async def test_the_asynchronous_client_streams_with_usage_and_logprobs(async_client):
    stream = await async_client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=5,
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.completion_tokens == 5
    entries = [
        entry for chunk in chunks[:-1] if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content
    ]
    assert len(entries) == 5
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in entries)


async def test_the_streaming_helper_of_the_client_works(async_client):
    async with async_client.chat.completions.stream(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=8
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content


async def test_completions_with_echo_and_batches(async_client):
    answer = await async_client.completions.create(
        model=MODEL, prompt=["Water flows", "Fire burns"], max_tokens=4, temperature=0, echo=True, logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs.token_logprobs[0] is None
        assert len(choice.logprobs.tokens) == len(choice.logprobs.top_logprobs) == len(choice.logprobs.text_offset)
        assert "".join(choice.logprobs.tokens) == choice.text


async def test_errors_are_the_exceptions_that_users_expect(async_client):
    with pytest.raises(openai.BadRequestError) as caught:
        await async_client.completions.create(model=MODEL, prompt="a", temperature=9e9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await async_client.completions.create(model="other", prompt="a")


@pytest.mark.slow
async def test_two_hundred_streams_at_once_each_equal_their_text_alone(async_client):
    prompts = [f"The number {n} is" for n in range(200)]

    async def stream(number: int) -> str:
        reply = await async_client.completions.create(
            model=MODEL, prompt=prompts[number], max_tokens=12, temperature=number % 2, seed=number, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in reply])

    alone = [await stream(number) for number in range(200)]
    together = await asyncio.gather(*(stream(number) for number in range(200)))
    assert all(together)
    assert together == alone or not ops.is_compiled()  # torch's own kernels let a row depend on the batch


def test_a_client_that_leaves_frees_its_blocks_within_a_second(served):
    body = {"prompt": "Go on and on:", "max_tokens": 1500, "stream": True, "ignore_eos": True}

    def leave(_: int) -> None:
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body, timeout=60) as reply:
            next(reply.iter_lines())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(8)))
    took = wait_for(lambda: served.metric("vllm:num_requests_running") == 0, seconds=10)
    assert took < 2.0
    assert served.metric("vllm:kv_cache_usage_perc") == 0
    assert served.metric("penstock_request_aborts_total") >= 8


def test_both_front_ends_tell_the_same_numbers(served):
    for _ in range(8):
        served.post("/v1/completions", prompt="a", max_tokens=1)
    wait_for(lambda: served.metric("penstock_num_requests_in_flight") == 0, seconds=5)
    pages = [served.get("/metrics") for _ in range(12)]  # connections reach either front-end
    name = "penstock_generation_tokens_total "
    numbers = {line for page in pages for line in page.splitlines() if line.startswith(name)}
    assert len(numbers) == 1


def test_bad_requests_do_not_touch_good_streams(served):
    body = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    text = served.post("/v1/completions", **body)["choices"][0]["text"]
    bad = [b"", b"{", b"[]", b'{"prompt":""}', b'{"prompt":[99999999]}', b'{"prompt":"a","n":1e9}', b"[" * 50_000]

    def good(_: int) -> str:
        return "".join(event["choices"][0]["text"] for event in served.events("/v1/completions", **body))

    with ThreadPoolExecutor(4) as pool, httpx.Client() as http:
        streams = [pool.submit(good, n) for n in range(3)]
        statuses = {http.post(f"{served.url}/v1/completions", content=content).status_code for content in bad}
        texts = [stream.result() for stream in streams]
    assert statuses == {400}
    assert len(set(texts)) == 1
    assert texts[0][:20] == text[:20]  # bfloat16: alone and in company may part at a close call


def test_the_example_of_the_start_page_answers(served):
    reply = httpx.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}),
        timeout=60,
    )
    assert reply.json()["choices"][0]["message"]["role"] == "assistant"
