"""The load generator against small servers of our own."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from penstock.bench.load_generator import Load, Target, offer_all


def load(**changes) -> Load:
    settings = {"rate": 20.0, "seconds": 0.5, "burstiness": 1.0, "prompt_tokens": 4, "output_tokens": 3, "seed": 1}
    return Load(**settings | changes)


@pytest.mark.parametrize("burstiness", [1.0, 2.0])
def test_gaps_have_the_rate_and_the_burstiness_that_were_asked_for(burstiness):
    gaps = np.diff(load(rate=50.0, seconds=400.0, burstiness=burstiness).arrivals())
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.05)


def test_a_seed_gives_the_same_load_again_and_another_seed_another():
    assert load().arrivals() == load().arrivals()
    assert load().prompts(3) == load().prompts(3)
    assert load().arrivals() != load(seed=2).arrivals()


def test_requests_at_once_come_together_at_the_end():
    assert load(rate=0.0, seconds=2.0, at_once=3).arrivals() == [2.0, 2.0, 2.0]


async def offered_to(handle, some_load: Load, **dialect):
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await offer_all(Target(url=f"http://127.0.0.1:{port}", model="model", **dialect), some_load)


async def read_request(reader) -> dict:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length"))
    return json.loads(await reader.readexactly(length))


async def test_notes_every_event_and_the_usage_of_a_streamed_answer():
    async def handle(reader, writer):
        request = await read_request(reader)
        assert len(request["prompt"]) == 4
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for _ in range(request["max_tokens"]):
            writer.write(b'data: {"choices": [{"text": "x"}]}\n\n')
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n')
        writer.close()

    exchanges = await offered_to(handle, load())
    assert len(exchanges) == len(load().arrivals()) > 3
    assert all(exchange.is_complete and exchange.num_tokens == 3 for exchange in exchanges)
    assert all(len(exchange.events) == 3 and min(exchange.gaps) > 0.01 for exchange in exchanges)
    assert all(exchange.time_to_first >= 0 for exchange in exchanges)
    assert all(exchange.text == "xxx" and exchange.due <= exchange.sent for exchange in exchanges)


async def test_a_chat_counts_text_not_roles_and_a_server_without_usage_counts_its_events():
    asked = []

    async def handle(reader, writer):
        asked.append(await read_request(reader))
        deltas = [{"role": "assistant", "content": ""}, {"content": "a"}, {"reasoning_content": "b"}, {}]
        events = b"".join(
            b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n" for delta in deltas
        )
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + events + b"data: [DONE]\n\n")
        writer.close()

    one = load(rate=0.0, seconds=0.0, at_once=1)
    [exchange] = await offered_to(handle, one, is_chat=True, has_ignore_eos=False, api_key="secret")
    assert (exchange.text, exchange.num_tokens, len(exchange.events), exchange.is_complete) == ("ab", 2, 2, True)
    [request] = asked
    assert len(request["messages"][0]["content"].split()) == 4
    assert "ignore_eos" not in request


async def test_is_an_open_loop_a_server_that_hangs_holds_no_request_back():
    waiting, is_over = [], asyncio.Event()

    async def handle(reader, writer):
        waiting.append(await read_request(reader))
        if len(waiting) == 5:
            is_over.set()
        await is_over.wait()  # nobody is answered before five have come
        writer.close()

    exchanges = await asyncio.wait_for(offered_to(handle, load(rate=0.0, seconds=0.0, at_once=5)), 5)
    assert [exchange.is_complete for exchange in exchanges] == [False] * 5


async def test_a_refused_request_keeps_its_status_and_a_cut_one_is_not_complete():
    answers = [
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\n\r\ndata: {"choices": [{}]}\n\n',
        b"",
    ]

    async def handle(reader, writer):
        await read_request(reader)
        writer.write(answers.pop())
        writer.close()

    exchanges = await offered_to(handle, load(rate=0.0, seconds=0.0, at_once=3))
    assert sorted(exchange.status for exchange in exchanges) == [0, 200, 503]
    assert not any(exchange.is_complete for exchange in exchanges)
