"""Answers in frames: what a router is told beside the client's bytes."""

from __future__ import annotations

import asyncio
import json

import pytest

from penstock.internal.frames import FrameKind
from penstock.internal.protocol import ROUTE_PATH
from penstock.server.main import drain
from support.lives import until
from support.routed import CHAT, COMPLETIONS, call_of, frames_of, payload_of, route, routing
from support.sites import open_site

TEXT = "The quick brown fox jumps over the lazy dog"
LONG = {"prompt": TEXT, "max_tokens": 400, "stream": True}


def kinds(frames) -> list[FrameKind]:
    return [frame.kind for frame in frames]


async def status_of(site, call: bytes) -> tuple[int, dict]:
    reply = await site.internal.post(ROUTE_PATH, content=call)
    return reply.status_code, reply.json()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_payload_is_what_a_client_of_the_public_port_gets(site, path, is_stream):
    prompt = {"prompt": TEXT} if path == COMPLETIONS else {"messages": [{"role": "user", "content": TEXT}]}
    body = {**prompt, "max_tokens": 5, "n": 2, "stream": is_stream}
    frames = await route(site, path, body)
    assert kinds(frames) == [FrameKind.EVENT] * (len(frames) - 1) + [FrameKind.END]
    public = (await site.http.post(path, json=body)).text
    routed = payload_of(frames).decode()

    def without_names(text: str) -> list:
        lines = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line]
        return [{**json.loads(line), "id": "", "created": 0} for line in lines]

    assert without_names(routed) == without_names(public)
    assert routed.endswith("data: [DONE]\n\n") == public.endswith("data: [DONE]\n\n") == is_stream


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "a", "nonsense": 1}, 400, "nonsense"),
        ({"prompt": "a", "model": "other"}, 404, "other"),
        ({"prompt": "a", "kv_transfer_params": {}}, 400, "kv_transfer_params"),
        ({"prompt": "a " * 90_000}, 400, "context"),
    ],
)
async def test_what_the_public_port_refuses_is_refused_alike(site, body, status, word):
    got, value = await status_of(site, call_of(COMPLETIONS, body))
    assert got == status
    assert word in value["error"]["message"]
    public = await site.http.post(COMPLETIONS, json=body)
    assert (public.status_code, public.json()) == (got, value)


async def test_a_pod_that_takes_nothing_says_so_before_the_first_frame(site):
    site.llm.drain()
    status, value = await status_of(site, call_of(COMPLETIONS, LONG))
    assert status == 503
    assert value["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/internal/v1/drain", ""])
async def test_only_what_can_be_routed_is_routed(site, path):
    for is_plain in (True, False):
        assert (await status_of(site, call_of(path, {}, is_plain=is_plain)))[0] == 400
    assert not site.llm.is_draining


async def test_the_tenants_salt_and_the_prefiller_come_from_the_call(site):
    for fields in ({}, {"salt": "a"}, {"salt": "b", "prefiller": "10.0.0.7:8001"}):
        await route(site, COMPLETIONS, {"prompt": TEXT, "max_tokens": 1}, **fields)
    roots = {request.root_hash for request in site.engine.seen}
    assert len(roots) == 3
    assert [request.prefiller for request in site.engine.seen] == ["", "", "10.0.0.7:8001"]
    for evil in ("http://x:1/", "x", "x:1/../", "a b:1", "x" * 400 + ":1"):
        assert (await status_of(site, call_of(COMPLETIONS, LONG, prefiller=evil)))[0] == 400


async def test_a_plain_call_is_answered_as_on_the_public_port(site):
    body = {"prompt": TEXT, "max_tokens": 3}
    async with routing(site, call_of(COMPLETIONS, body, is_plain=True, salt="s")) as reply:
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["x-request-id"] == "r-1"
        assert json.loads(await reply.aread())["choices"][0]["text"] == "The quick brown"
    async with routing(site, call_of("/tokenize", {"prompt": "two words"}, is_plain=True)) as reply:
        assert json.loads(await reply.aread())["count"] == 2


async def test_a_quiet_answer_has_a_heartbeat_every_second(site):
    site.engine.is_running = False
    async with routing(site, call_of(COMPLETIONS, LONG)) as reply, asyncio.timeout(5):
        frames = frames_of(reply)
        assert [(await anext(frames)).kind for _ in range(2)] == [FrameKind.HEARTBEAT] * 2


async def test_a_death_is_told_and_the_answer_goes_on_with_the_next_engine(site):
    alone = payload_of(await route(site, COMPLETIONS, {**LONG, "max_tokens": 60}))
    site.engine.pause = 0.01
    frames = []
    async with routing(site, call_of(COMPLETIONS, {**LONG, "max_tokens": 60})) as reply:
        async for frame in frames_of(reply):
            frames.append(frame)
            if len(frames) == 5:
                site.engine.die()
                site.engine.begin_life()
    assert kinds(frames).count(FrameKind.DEATH) == 1
    assert frames[-1].kind == FrameKind.END
    assert payload_of(frames).count(b"data: ") == alone.count(b"data: ")
    assert [request.is_remote_prefill_allowed for request in site.engine.seen[-2:]] == [True, False]


async def test_deaths_are_counted_over_pods(site):
    site.engine.pause = 0.01
    frames = []
    async with routing(site, call_of(COMPLETIONS, LONG, num_deaths=1)) as reply:
        async for frame in frames_of(reply):
            frames.append(frame)
            if len(frames) == 3:
                site.engine.die()
    assert not site.engine.seen[-1].is_remote_prefill_allowed
    assert kinds(frames)[-2:] == [FrameKind.DEATH, FrameKind.ERROR]
    assert frames[-1].record == b"500"
    assert frames[-1].payload.startswith(b"data: {")
    assert frames[-1].payload.endswith(b"data: [DONE]\n\n")
    assert b"died twice" in frames[-1].payload
    site.engine.begin_life()
    status, value = await status_of(site, call_of(COMPLETIONS, LONG, num_deaths=2))
    assert (status, len(site.engine.running)) == (500, 0)
    assert "died twice" in value["error"]["message"]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_error_after_the_first_frame_is_the_last_frame(site, is_stream):
    site.engine.fail_after = 3
    frames = await route(site, COMPLETIONS, {**LONG, "stream": is_stream})
    assert frames[-1].kind == FrameKind.ERROR
    assert frames[-1].record == b"500"
    if is_stream:
        assert b"its numbers went bad" in frames[-1].payload
        assert frames[-1].payload.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(frames[-1].payload)["error"]["type"] == "internal_error"


async def test_a_body_that_the_public_port_finds_too_large_is_too_large_here(site):
    status, value = await status_of(site, call_of(COMPLETIONS, {"prompt": "a " * 200_000}))
    assert status == 413
    assert "at most 200,000" in value["error"]["message"]


async def test_an_error_after_a_resumption_knows_what_the_client_has_seen(site):
    body = {**LONG, "max_tokens": 9}
    records = [frame.record for frame in await route(site, COMPLETIONS, body)][:4]
    site.engine.is_running, site.engine.fail_after = False, 0
    async with routing(site, call_of(COMPLETIONS, body, records)) as reply, asyncio.timeout(5):
        frames = frames_of(reply)
        assert (await anext(frames)).kind == FrameKind.HEARTBEAT
        site.engine.is_running = True
        [error] = [frame async for frame in frames if frame.kind != FrameKind.HEARTBEAT]
    assert error.kind == FrameKind.ERROR
    assert error.payload.endswith(b"data: [DONE]\n\n")


async def test_a_router_that_leaves_takes_the_request_along(site):
    site.engine.pause = 0.01
    async with routing(site, call_of(COMPLETIONS, LONG)) as reply:
        await anext(frames_of(reply))
    await until(lambda: not site.engine.running)
    assert site.llm.num_in_flight == 0
    assert not site.serving.routed


@pytest.mark.parametrize("record", [b"junk", b"\x92\xc0\x90", b"\x92\xc0\x91", b"\x92\xc0\x91\xa1\xff"])
async def test_records_that_are_none_are_refused(site, record):
    status, value = await status_of(site, call_of(COMPLETIONS, LONG, [record]))
    assert status == 400
    assert value["error"]["param"] == "records"


async def test_records_of_another_request_are_refused(site):
    record = (await route(site, COMPLETIONS, {**LONG, "max_tokens": 9}))[0].record
    assert (await status_of(site, call_of(COMPLETIONS, {**LONG, "n": 2}, [record])))[0] == 400
    assert (await status_of(site, call_of(COMPLETIONS, {**LONG, "max_tokens": 1}, [record] * 2)))[0] == 400


async def test_a_resumed_request_is_not_refused_for_a_full_queue():
    async with open_site(max_waiting=1) as site:
        records = [frame.record for frame in (await route(site, COMPLETIONS, {**LONG, "max_tokens": 9}))[:3]]
        site.engine.is_running = False
        for _ in range(40):
            site.llm.submit(site.llm.input.build("a", site.llm.input.default_params(), request_id="x"))
            if site.llm._num_waiting() >= 1:
                break
        assert (await status_of(site, call_of(COMPLETIONS, LONG)))[0] == 503
        site.engine.is_running = True
        frames = await route(site, COMPLETIONS, {**LONG, "max_tokens": 9}, records)
        assert frames[-1].kind == FrameKind.END


async def test_what_is_not_done_shortly_before_the_end_of_the_grace_period_moves(tmp_path):
    async with open_site(shutdown_grace=0.2) as site, open_site() as other:
        site.engine.pause = 0.005
        whole = payload_of(await route(other, COMPLETIONS, {**LONG, "max_tokens": 120}))
        public = asyncio.create_task(site.post(COMPLETIONS, **LONG))
        frames = []
        async with routing(site, call_of(COMPLETIONS, {**LONG, "max_tokens": 120})) as reply:
            async for frame in frames_of(reply):
                frames.append(frame)
                if len(frames) == 5:
                    draining = asyncio.create_task(drain(site.serving, asyncio.Event()))
        assert frames[-1].kind == FrameKind.MOVED
        await draining
        assert "shutting down" in (await public).text  # nobody can take that one over
        assert await site.metric("penstock_requests_moved_total") == 1
        rest = await route(other, COMPLETIONS, {**LONG, "max_tokens": 120}, [frame.record for frame in frames])
        assert payload_of(frames + rest).count(b"data: ") == whole.count(b"data: ")
        assert await other.metric("penstock_requests_resumed_total") == 1


async def test_ctrl_c_moves_at_once(site):
    site.engine.pause = 0.01
    hurry = asyncio.Event()
    hurry.set()
    async with routing(site, call_of(COMPLETIONS, LONG)) as reply, asyncio.timeout(5):
        frames = frames_of(reply)
        await anext(frames)
        await drain(site.serving, hurry)
        assert [frame.kind async for frame in frames][-1] == FrameKind.MOVED
