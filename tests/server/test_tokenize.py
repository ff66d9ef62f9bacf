from __future__ import annotations

import asyncio
import time

import pytest

TEXT = "Grüße, 世界 🌊 naïve\n\ttabs <|im_start|>"


async def test_text_goes_to_tokens_and_back(site):
    reply = (await site.post("/tokenize", prompt=TEXT, model="org/echo", return_token_strs=True)).json()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == 512
    assert (await site.post("/detokenize", tokens=reply["tokens"])).json() == {"prompt": TEXT}


async def test_messages_are_tokenised_as_chat_does(site):
    messages = [{"role": "user", "content": "Hi"}]
    tokens = (await site.post("/tokenize", messages=messages)).json()["tokens"]
    await site.chat("Hi", max_tokens=1)
    assert tokens == site.engine.seen[0].prompt_array().tolist()
    shorter = (await site.post("/tokenize", messages=messages, add_generation_prompt=False)).json()
    assert shorter["tokens"] == tokens[: shorter["count"]]
    assert shorter["token_strs"] is None


async def test_prompts_beyond_the_context_are_counted(site):
    assert (await site.post("/tokenize", prompt="word " * 5_000)).json()["count"] > 5_000


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "a", "foo": 1}, "foo"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_bad_requests_are_named(site, path, body, field):
    reply = await site.post(path, **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(field)


async def test_nothing_is_the_text_of_no_tokens(site):
    assert (await site.post("/detokenize", tokens=[])).json() == {"prompt": ""}
    assert (await site.post("/tokenize", prompt="")).json()["tokens"] == []


async def test_others_are_answered_while_a_long_text_is_tokenised(site):
    text = "".join(chr(97 + n * n % 26) for n in range(190_000))  # one word, slow to split
    busy = asyncio.create_task(site.post("/tokenize", prompt=text))
    await asyncio.sleep(0)
    answers, longest = 0, 0.0
    while not busy.done():
        began = time.perf_counter()
        await site.http.get("/livez")
        longest = max(longest, time.perf_counter() - began)
        answers += 1
    assert (await busy).status_code == 200
    assert answers > 1
