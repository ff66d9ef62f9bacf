"""Requests that began elsewhere, deaths that are counted elsewhere, and blocks that are computed for others."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from penstock.engine.client import EngineClient
from penstock.engine.drain_flag import DrainFlag
from penstock.engine.lend_stream import LendStream
from penstock.engine.messages import ClientBatch, EngineDown
from penstock.errors import Overloaded
from penstock.internal.protocol import Computed, Ended, Granted
from penstock.kv_transfer.front_end_messages import LendNews, Strike
from penstock.sampling.params import SamplingParams
from support.lives import PROMPTS, build_launch, build_llm, collect, lives_of, reference, submit, tokens_of, until


@pytest.fixture
def sent(monkeypatch):
    """The batches that the front-end sends, which go out as ever."""
    batches, send = [], EngineClient.send

    def note(client, message):
        if isinstance(message, ClientBatch):
            batches.append(message)
        send(client, message)

    monkeypatch.setattr(EngineClient, "send", note)
    return batches


def build(llm, prompt, max_tokens=32, **params):
    sampling = SamplingParams(**({"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True} | params))
    return llm.input.build(prompt, sampling, request_id="r")


@pytest.mark.parametrize("num_known", [0, 1, 20, 31])
async def test_a_request_goes_on_after_the_tokens_that_it_has(llm, lives, num_known):
    lives.begin()
    await llm.wait_ready()
    expected = reference(PROMPTS[0], 32)
    [request] = build(llm, PROMPTS[0])
    known = np.array(expected[:num_known], "<i4").tobytes()
    deltas = await collect(llm.submit([request], output_ids={request.handle: known}))
    assert tokens_of(deltas) == expected[num_known:]
    assert deltas[-1].num_outputs == 32
    text = llm.tokenizer.decode(expected)
    assert text.endswith("".join(delta.text for delta in deltas))


async def test_what_goes_on_here_is_told_again_in_full_when_the_engine_dies(llm, lives):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    expected = reference(PROMPTS[0], 60)
    [request] = build(llm, PROMPTS[0], 60)
    stream = llm.submit([request], output_ids={request.handle: np.array(expected[:10], "<i4").tobytes()})
    task = asyncio.create_task(collect(stream))
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.die)
    lives.begin()
    assert tokens_of(await task) == expected[10:]
    assert stream.num_deaths == 1


async def test_a_death_elsewhere_and_one_here_are_two(llm, lives):
    deaths = []
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    stream = llm.submit(build(llm, PROMPTS[0], 200), num_deaths=1, on_death=lambda: deaths.append(1))
    task = asyncio.create_task(collect(stream))
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.die)
    assert "died twice" in (await task)[-1].error
    assert deaths == [1]


async def test_a_strike_counts_like_a_death_of_our_own(llm, lives):
    lives.begin(step_time=0.004)
    await llm.wait_ready()
    deaths = []
    stream = llm.submit(build(llm, PROMPTS[0], 60, n=2), on_death=lambda: deaths.append(1))
    other = submit(llm, PROMPTS[1], 60)
    handle = stream.open_handles[0]
    llm._receive(Strike(epoch=7, handle=handle))  # of no engine that we know
    llm._receive(Strike(epoch=1, handle=12345))
    assert stream.num_deaths == 0
    llm._receive(Strike(epoch=1, handle=handle))
    assert (stream.num_deaths, deaths) == (1, [1])
    llm._receive(Strike(epoch=1, handle=handle))
    deltas = await collect(stream)
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["error", "error"]
    assert tokens_of(await collect(other)) == reference(PROMPTS[1], 60)


async def test_once_an_engine_died_with_it_no_other_pod_is_drawn_in(llm, lives, sent):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    told, untold = submit(llm, PROMPTS[0], 60), None
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.die)
    await until(lambda: not llm.is_ready)
    untold = submit(llm, PROMPTS[1], 60)
    lives.begin()
    await asyncio.gather(collect(told), collect(untold))
    assert [[add.request.is_remote_prefill_allowed for add in batch.add] for batch in sent] == [[True], [False, True]]
    await collect(llm.submit(build(llm, PROMPTS[2]), num_deaths=1))
    assert [add.request.is_remote_prefill_allowed for add in sent[-1].add] == [False]


GRANTED, COMPUTED = Granted(lease=1, epoch=2, seconds=3.0), Computed(start=0, blocks=[4], checksums=[])


def lend(llm) -> tuple[LendStream, int]:
    [request] = build(llm, PROMPTS[0], 1)
    return llm.lend(request, 0), request.handle


async def heard_of(stream: LendStream) -> list:
    async with asyncio.timeout(5):
        return [announcement async for news in stream for announcement in news]


async def test_a_lend_hears_what_the_engine_says_of_it_until_its_lease_is_over(llm, lives, sent):
    life = lives.begin()
    await llm.wait_ready()
    stream, handle = lend(llm)
    await until(lambda: sent and not life.core.has_work)
    assert [(add.request.handle, add.lend_from) for add in sent[0].add] == [(handle, 0)]
    for news in (GRANTED, COMPUTED, Ended()):
        llm._receive(LendNews(epoch=1, handle=handle, news=news))
    llm._receive(LendNews(epoch=7, handle=handle, news=None))  # of no engine that we know
    assert llm.num_in_flight == 1
    assert not llm._is_pending  # a lease that is held is no work that waits
    llm._receive(LendNews(epoch=1, handle=handle, news=None))
    assert await heard_of(stream) == [GRANTED, COMPUTED, Ended()]
    assert llm.num_in_flight == 0


async def test_closing_a_lend_tells_the_engine_once(llm, lives, sent):
    lives.begin()
    await llm.wait_ready()
    stream, handle = lend(llm)
    await until(lambda: sent)
    await stream.aclose()
    await stream.aclose()
    await asyncio.sleep(0.02)
    assert [batch.abort for batch in sent[1:]] == [(handle,)]
    assert await heard_of(stream) == []


@pytest.mark.parametrize("is_complete", [False, True])
async def test_a_death_ends_a_lend_and_the_next_engine_is_told_nothing_of_it(llm, lives, sent, is_complete):
    life = lives.begin()
    await llm.wait_ready()
    stream, handle = lend(llm)
    await until(lambda: sent)
    for news in (GRANTED, *([Ended()] if is_complete else [])):
        llm._receive(LendNews(epoch=1, handle=handle, news=news))
    await asyncio.to_thread(life.end)
    llm._receive(EngineDown(epoch=1))
    last = Ended() if is_complete else Ended(why="the engine died", is_death=True)
    assert await heard_of(stream) == [GRANTED, last]
    with pytest.raises(Overloaded):
        lend(llm)
    lives.begin()
    await llm.wait_ready()
    await asyncio.sleep(0.02)
    assert sum(len(batch.add) for batch in sent) == 1


async def test_a_drain_waits_for_leases(llm, lives):
    lives.begin()
    await llm.wait_ready()
    stream, _ = lend(llm)
    llm.drain()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(llm.wait_idle(), 0.1)
    llm.fail_all("it is over")
    await asyncio.wait_for(llm.wait_idle(), 1)
    assert await heard_of(stream) == [Ended(why="it is over")]


async def test_the_pod_drains_for_every_front_end_and_after_a_restart(tmp_path):
    launch = build_launch(tmp_path, api_servers=2)
    with lives_of(launch) as lives:
        lives.begin()
        fronts = [build_llm(launch, client, drain_flag=DrainFlag(tmp_path)) for client in range(2)]
        for front in fronts:
            front.start()
            await front.wait_ready()
        fronts[0].drain_flag.set()
        fronts[0].drain_flag.set()
        assert [front.is_draining for front in fronts] == [True, True]
        with pytest.raises(Overloaded):
            submit(fronts[1], PROMPTS[0])
        assert DrainFlag(tmp_path).is_set
        fronts[1].drain_flag.clear()
        fronts[1].drain_flag.clear()
        assert tokens_of(await collect(submit(fronts[0], PROMPTS[0]))) == reference(PROMPTS[0], 32)
        for front in fronts:
            front.close()
