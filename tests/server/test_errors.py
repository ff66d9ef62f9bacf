from __future__ import annotations

import asyncio
import json

import pytest

from penstock.server import app as app_module
from penstock.server.endpoint import Endpoint
from support.sites import MAX_BODY, open_site

COMPLETIONS = "/v1/completions"


def error_of(reply) -> dict:
    """The error of an answer; checks that it has OpenAI's shape and shows nothing of our inside."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"]
    for leak in ("Traceback", "site-packages", "/work", ".py", "penstock."):
        assert leak not in reply.text
    return error


BAD_BODIES = {
    "empty": b"",
    "not JSON": b'{"prompt": "a"',
    "a list": b'["a"]',
    "a number": b"5",
    "null": b"null",
    "bad UTF-8": b'{"prompt": "\xff\xfe"}',
    "a lone surrogate": b'{"prompt": "a\\ud800b"}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "Infinity": b'{"prompt": "a", "top_p": Infinity}',
    "10,000 deep": b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep and unknown": b'{"prompt": "a", "x": ' + b'{"x": ' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    "a huge number": b'{"prompt": "a", "seed": ' + b"9" * 50_000 + b"}",
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_that_is_no_request_gets_400(site, name):
    reply = await site.http.post(COMPLETIONS, content=BAD_BODIES[name])
    assert reply.status_code == 400
    assert error_of(reply)["type"] == "invalid_request_error"
    assert (await site.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["", "a"]}, "prompt"),
        ({"prompt": [1, 10**9]}, "prompt"),
        ({"prompt": [49152]}, "prompt"),
        ({"prompt": "a", "stop_token_ids": [10**9]}, "stop_token_ids"),
        ({"prompt": "a", "logit_bias": {"999999999": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "a", "min_tokens": 10, "max_tokens": 4}, "min_tokens"),
        ({"prompt": "a", "max_tokens": 600}, "max_tokens"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "repetition_penalty": 0}, "repetition_penalty"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": ["a"] * 100, "n": 100}, "n"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
    ],
)
async def test_a_request_that_cannot_be_served_gets_400_with_its_field(site, body, field):
    reply = await site.post(COMPLETIONS, **body)
    assert reply.status_code == 400
    error = error_of(reply)
    assert error["param"] == field
    assert field in error["message"]
    assert not site.engine.seen


async def test_a_prompt_beyond_the_context_says_so(site):
    reply = await site.post(COMPLETIONS, prompt="word " * 30_000)
    assert reply.status_code == 400
    assert "context" in error_of(reply)["message"]


async def test_another_model_gets_404(site):
    reply = await site.post(COMPLETIONS, prompt="a", model="no-such-model")
    assert reply.status_code == 404
    assert error_of(reply)["code"] == "model_not_found"
    assert error_of(reply)["param"] == "model"


async def test_unknown_paths_and_methods_are_told_apart(site):
    reply = await site.http.get("/v1/nothing")
    assert reply.status_code == 404
    assert "/v1/nothing" in error_of(reply)["message"]
    reply = await site.http.get(COMPLETIONS)
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    error_of(reply)
    reply = await site.http.delete("/livez")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET, HEAD"
    error_of(reply)
    for path in ("/v1/models/", "/livez/", COMPLETIONS + "/", "/redoc"):  # nothing is redirected
        reply = await site.http.get(path)
        assert reply.status_code == 404, path
        error_of(reply)


@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_body_over_the_limit_gets_413_while_it_is_still_being_sent(site, is_declared):
    async def pieces():
        for _ in range(100):
            yield b"a" * (MAX_BODY // 10)

    data = b"".join([piece async for piece in pieces()]) if is_declared else pieces()
    reply = await site.http.post(COMPLETIONS, content=data)
    assert reply.status_code == 413
    assert f"{MAX_BODY:,}" in error_of(reply)["message"]
    assert (await site.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"


async def test_a_body_of_exactly_the_limit_is_read(site):
    start = b'{"prompt": "ok", "max_tokens": 1'
    reply = await site.http.post(COMPLETIONS, content=start + b" " * (MAX_BODY - len(start) - 1) + b"}")
    assert reply.status_code == 200


async def test_a_client_that_waits_for_a_go_ahead_is_refused_without_sending(site):
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()
    await writer.wait_closed()


async def test_a_full_queue_gets_503_and_a_time_to_wait(site):
    site.engine.is_running = False
    waiting = [asyncio.create_task(site.post(COMPLETIONS, prompt="a", n=16, max_tokens=1)) for _ in range(6)]
    while site.llm.num_in_flight < 96:
        await asyncio.sleep(0.01)
    reply = await site.post(COMPLETIONS, prompt="a")
    assert reply.status_code == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert error_of(reply)["type"] == "overloaded_error"
    assert await site.metric("vllm:num_requests_waiting") == 96
    site.engine.is_running = True
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}


async def test_a_failure_of_the_engine_is_500_before_the_first_token(site):
    site.engine.fail_after = 0
    reply = await site.post(COMPLETIONS, prompt="a", stream=True)
    assert reply.status_code == 500
    assert error_of(reply)["message"] == "its numbers went bad"


async def test_a_failure_of_the_engine_ends_a_stream_with_an_error_event(site):
    site.engine.fail_after = 2
    reply = await site.post(COMPLETIONS, prompt="one two three", stream=True)
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert reply.status_code == 200
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["message"] == "its numbers went bad"
    assert len(events) == 4
    assert site.llm.num_in_flight == 0


async def test_a_defect_of_ours_ends_one_request_and_says_nothing(monkeypatch, caplog):
    async def broken(serving, exchange):
        raise KeyError("/secret/path")

    monkeypatch.setattr(app_module, "ENDPOINTS", (Endpoint("GET", "/broken", broken), *app_module.ENDPOINTS))
    async with open_site() as site:
        reply = await site.http.get("/broken", headers={"x-request-id": "abc-1"})
        assert reply.status_code == 500
        assert "secret" not in reply.text
        assert "abc-1" in error_of(reply)["message"]
        assert "secret" in caplog.text
        assert await site.metric('penstock_http_responses_total{code="500"}') == 1
        assert (await site.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"


@pytest.mark.parametrize(("given", "is_kept"), [("trace-7:a/b=", True), ("a b", False), ("x" * 200, False)])
async def test_a_sane_request_id_comes_back(site, given, is_kept):
    reply = await site.http.get("/version", headers={"x-request-id": given})
    assert (reply.headers["x-request-id"] == given) is is_kept
