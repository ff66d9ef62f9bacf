"""What a decode pod is told when it asks for a prompt, and what is refused."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import msgspec
import numpy as np
import pytest

from penstock.core.kv.block_hash import root_hash
from penstock.internal.credentials import Caller, ClusterKeys
from penstock.internal.pieces import BrokenPiece, PieceReader
from penstock.internal.protocol import PREFILL_PATH, Announcement, Computed, Ended, Granted, PrefillCall
from penstock.server.main import drain
from support.kv_endpoint import ENDPOINT
from support.lives import until
from support.sites import open_site

BLOCK = 16
GRANTED = Granted(lease=3, epoch=77, seconds=10.0)
COMPUTED = Computed(start=1, blocks=[4, 5], checksums=[(0, 123)])


@pytest.fixture
async def pod(tmp_path):
    key = tmp_path / "key"
    key.write_text("a-key-that-is-long-enough\n")
    async with open_site(cluster_key_file=str(key), endpoint=ENDPOINT, shutdown_grace=0.3) as site:
        yield site


def call_of(num_tokens: int = 3 * BLOCK, **fields) -> PrefillCall:
    tokens = (np.arange(num_tokens) + 5).astype("<i4").tobytes()
    given = {"token_ids": tokens, "root_hash": root_hash("t"), "skip": 1, "fingerprint": "f1", "revision": ""}
    return PrefillCall(request_id="r-9", **{**given, **fields})


@asynccontextmanager
async def prefilling(pod, call: PrefillCall):
    """The open answer, and what reads its pieces."""
    body, keys, now = msgspec.msgpack.encode(call), pod.serving.cluster, pod.serving.clock()
    caller = Caller(keys)
    caller.learn(pod.llm.sessions[0], now, now)
    claims = caller.claims(PREFILL_PATH, body, now)
    headers = {"authorization": keys.sign(claims)}
    async with pod.internal.stream("POST", PREFILL_PATH, content=body, headers=headers) as reply:
        yield reply, PieceReader(keys, claims.nonce, Announcement)


async def announcements_of(reply: httpx.Response, reader: PieceReader):
    async for data in reply.aiter_raw():
        for announcement in reader.feed(data):
            yield announcement


async def refusal_of(pod, call: PrefillCall) -> tuple[int, str]:
    async with prefilling(pod, call) as (reply, _):
        await reply.aread()
        return reply.status_code, reply.json()["error"]["message"]


async def test_a_prompt_is_computed_once_and_its_blocks_are_told_as_they_come_until_the_lease_is_over(pod):
    async with prefilling(pod, call_of()) as (reply, reader), asyncio.timeout(5):
        assert reply.status_code == 200
        await until(lambda: pod.engine.adds)
        [add] = pod.engine.adds
        heard = announcements_of(reply, reader)
        for announcement in (GRANTED, COMPUTED, Ended()):
            pod.engine.tell(add.request.handle, announcement)
            assert await anext(heard) == announcement
        assert pod.llm.num_in_flight == 1  # the lease is held
        pod.engine.tell(add.request.handle, None)
        assert [each async for each in heard] == []
    request, sampling = add.request, add.request.sampling
    assert add.lend_from == 1
    assert (sampling.max_tokens, sampling.temperature, request.stop_ids) == (1, 0.0, ())
    assert (request.root_hash, request.num_prompt, request.max_total) == (root_hash("t"), 48, 49)
    assert len(request.block_hashes) == 3 * BLOCK
    assert pod.llm.num_in_flight == 0
    assert pod.engine.aborted == []
    assert await pod.metric("penstock_prefill_calls_total") == 1


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"token_ids": b""}, 400, "whole blocks"),
        ({"num_tokens": 3 * BLOCK - 1}, 400, "whole blocks"),
        ({"token_ids": b"abc"}, 400, "whole blocks"),
        ({"num_tokens": 40 * BLOCK}, 400, "context"),
        ({"token_ids": np.full(BLOCK, 49152, "<i4").tobytes(), "skip": 0}, 400, "token ids"),
        ({"token_ids": np.full(BLOCK, -1, "<i4").tobytes(), "skip": 0}, 400, "token ids"),
        ({"skip": 3}, 400, "skip"),
        ({"skip": -1}, 400, "skip"),
        ({"root_hash": b"short"}, 400, "root_hash"),
        ({"priority": 1 << 40}, 400, "priority"),
        ({"fingerprint": "f2"}, 409, "another model"),
        ({"revision": "v2"}, 409, "revision"),
    ],
)
async def test_what_is_wrong_or_of_another_kind_is_refused(pod, fields, status, word):
    got, message = await refusal_of(pod, call_of(**fields))
    assert got == status
    assert word in message
    assert not pod.engine.seen


async def test_a_pod_without_an_engine_a_readable_cache_or_the_will_refuses(pod, site):
    pod.serving.llm.drain_flag.set()
    assert (await refusal_of(pod, call_of()))[0] == 503
    pod.serving.llm.drain_flag.clear()
    pod.engine.die()
    assert (await refusal_of(pod, call_of()))[0] == 503
    assert (await refusal_of(site, call_of()))[0] == 409


async def test_a_peer_that_leaves_gives_the_lease_up(pod):
    for is_complete in (False, True):
        async with prefilling(pod, call_of()) as (reply, reader):
            await until(lambda: pod.llm.num_in_flight == 1)
            handle = pod.engine.adds[-1].request.handle
            pod.engine.tell(handle, GRANTED)
            if is_complete:
                pod.engine.tell(handle, Ended())
            await anext(announcements_of(reply, reader))
        await until(lambda: pod.llm.num_in_flight == 0)
        assert pod.engine.aborted[-1] == handle
        pod.engine.tell(handle, COMPUTED)  # of no interest to anybody now


async def test_a_death_of_the_engine_ends_the_announcements_and_says_so(pod):
    async with prefilling(pod, call_of()) as (reply, reader), asyncio.timeout(5):
        await until(lambda: pod.engine.adds)
        pod.engine.tell(pod.engine.adds[0].request.handle, GRANTED)
        heard = announcements_of(reply, reader)
        assert await anext(heard) == GRANTED
        pod.engine.die()
        [ended] = [each async for each in heard]
        assert ended == Ended(why="the engine died", is_death=True)
    pod.engine.begin_life()
    assert len(pod.engine.adds) == 1  # nothing of it is told again


async def test_a_request_that_fails_ends_the_announcements(pod):
    pod.engine.is_running = False
    async with prefilling(pod, call_of()) as (reply, reader), asyncio.timeout(5):
        await until(lambda: pod.engine.adds)
        handle = pod.engine.adds[0].request.handle
        pod.engine.deliver(pod.engine.outputs([], [], failed=((handle, "its numbers went bad"),)))
        assert [each async for each in announcements_of(reply, reader)] == [Ended(why="its numbers went bad")]


async def test_leases_end_with_the_grace_period_and_not_before(pod):
    async with prefilling(pod, call_of()) as (reply, reader), asyncio.timeout(5):
        await until(lambda: pod.engine.adds)
        began = pod.serving.clock()
        ending = asyncio.create_task(drain(pod.serving, asyncio.Event()))
        [ended] = [each async for each in announcements_of(reply, reader)]
        assert pod.serving.clock() - began >= 0.2
        assert "shutting down" in ended.why
        await ending


async def test_pieces_that_are_not_from_the_pod_do_not_pass(pod, tmp_path):
    other = tmp_path / "other"
    other.write_text("another-key-long-enough")
    async with prefilling(pod, call_of()) as (reply, _), asyncio.timeout(5):
        await until(lambda: pod.engine.adds)
        pod.engine.tell(pod.engine.adds[0].request.handle, GRANTED)
        with pytest.raises(BrokenPiece):
            await anext(announcements_of(reply, PieceReader(ClusterKeys(other), b"", Announcement)))
