from __future__ import annotations

import asyncio
import json

import pytest

TEXT = "The quick brown fox jumps over the lazy dog"


async def send(site, **body):
    """A connection with a request written to it."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
    await writer.drain()
    return reader, writer


async def until(condition, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_takes_all_its_choices_along(site, is_stream):
    site.engine.pause = 0.02
    _, writer = await send(site, prompt=TEXT, max_tokens=400, n=3, stream=is_stream)
    await until(lambda: site.engine.num_steps > 3)
    writer.close()
    await until(lambda: not site.engine.running, seconds=1)
    assert len(site.engine.aborted) == 3
    await until(lambda: site.llm.num_in_flight == 0)
    assert await site.metric("penstock_request_aborts_total") == 3
    assert await site.metric("penstock_num_requests_in_flight") == 0


async def test_a_client_that_leaves_before_the_first_token_is_noticed(site):
    site.engine.is_running = False
    _, writer = await send(site, prompt=TEXT, max_tokens=400, stream=True)
    await until(lambda: site.engine.running)
    writer.close()
    await until(lambda: not site.engine.running, seconds=1)


async def test_others_do_not_notice_that_one_leaves(site):
    site.engine.pause = 0.005
    _, writer = await send(site, prompt=TEXT, max_tokens=400, stream=True)
    other = asyncio.create_task(site.complete(TEXT, max_tokens=60))
    await until(lambda: site.engine.num_steps > 3)
    writer.close()
    assert (await other)["usage"]["completion_tokens"] == 60


async def test_a_slow_reader_loses_nothing_and_stops_nobody(site):
    body = {"prompt": "word " * 50, "max_tokens": 400, "logprobs": 20, "n": 8, "stream": True}
    reader, writer = await send(site, **body)
    await until(lambda: not site.engine.running, seconds=20)  # the engine is through, the reader has not begun
    assert (await site.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"
    events = 0
    while (line := await reader.readline()) != b"data: [DONE]\n":
        events += line.startswith(b"data: {")
    assert events == 8 * 400
    writer.close()


async def test_a_half_sent_body_leaves_nothing_behind(site):
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"prompt"')
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    assert (await site.complete("ok", max_tokens=1))["choices"][0]["text"] == "ok"
    assert len(site.engine.seen) == 1
