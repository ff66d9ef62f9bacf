from __future__ import annotations

import asyncio

import pytest

from penstock.engine.client import EngineClient
from penstock.engine.messages import AddRequest, ClientBatch, ClientHello, EngineDown, SchedulerStats
from penstock.errors import Overloaded
from penstock.sampling.params import SamplingParams
from support.lives import build_launch, build_llm, collect, lives_of, reference, submit, tokens_of, until

PROMPTS = [[10 + n, 20, 30 + n, 40] * (n % 3 + 1) for n in range(12)]


@pytest.fixture
def launch(tmp_path):
    return build_launch(tmp_path)


@pytest.fixture
def lives(launch):
    with lives_of(launch) as lives:
        yield lives


@pytest.fixture
async def llm(launch):
    llm = build_llm(launch)
    llm.start()
    yield llm
    llm.close()


async def test_streams_give_every_token_once_and_in_order(llm, lives):
    lives.begin()
    await llm.wait_ready()
    results = await asyncio.gather(*(collect(submit(llm, prompt)) for prompt in PROMPTS))
    for prompt, deltas in zip(PROMPTS, results, strict=True):
        assert tokens_of(deltas) == reference(prompt, 32)
        assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["length"]
    assert llm.num_in_flight == 0


async def test_all_choices_of_a_stream_arrive_before_it_ends(llm, lives):
    lives.begin()
    await llm.wait_ready()
    deltas = await collect(submit(llm, PROMPTS[0], n=3))
    assert all(tokens_of(deltas, choice) == reference(PROMPTS[0], 32) for choice in range(3))


@pytest.mark.parametrize("tokens_before", [0, 1, 20])
async def test_an_engine_death_loses_and_doubles_no_token(llm, lives, tokens_before):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    streams = [asyncio.create_task(collect(submit(llm, prompt, 60))) for prompt in PROMPTS]
    await until(lambda: first.device.num_executed > tokens_before)
    await asyncio.to_thread(first.die)
    await until(lambda: not llm.is_ready)
    late = asyncio.create_task(collect(submit(llm, PROMPTS[1], 20)))
    lives.begin()
    results = await asyncio.gather(*streams)
    for prompt, deltas in zip(PROMPTS, results, strict=True):
        assert tokens_of(deltas) == reference(prompt, 60)
        assert deltas[-1].num_outputs == 60
        assert sum(delta.finish_reason is not None for delta in deltas) == 1
    assert tokens_of(await late) == reference(PROMPTS[1], 20)


async def test_a_successor_that_is_faster_than_the_word_of_the_death_is_accepted(llm, lives):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    stream = asyncio.create_task(collect(submit(llm, PROMPTS[0], 60)))
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.end)
    lives.begin()
    llm._client.send(ClientHello(client=0))
    await until(lambda: llm.epoch == 2)
    await asyncio.to_thread(lives.all[0].die)  # the word comes now, and is old
    assert llm.is_ready
    assert tokens_of(await stream) == reference(PROMPTS[0], 60)


async def test_word_of_a_death_that_overtakes_the_engines_own_ready_is_believed(llm, lives):
    llm._receive(EngineDown(epoch=1))
    first = lives.begin()
    await asyncio.sleep(0.3)
    assert not llm.is_ready
    await asyncio.to_thread(first.end)
    lives.begin()
    await llm.wait_ready()
    assert llm.epoch == 2


async def test_a_request_in_flight_at_two_deaths_ends_with_an_error_and_others_go_on(llm, lives):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    poison = asyncio.create_task(collect(submit(llm, PROMPTS[0], 200, n=2)))
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.die)
    second = lives.begin(step_time=0.004)
    await until(lambda: second.device.num_executed > 5)
    other = asyncio.create_task(collect(submit(llm, PROMPTS[1], 60)))
    await until(lambda: llm.num_in_flight == 3 and second.device.num_executed > 15)
    await asyncio.to_thread(second.die)
    deltas = await poison
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["error", "error"]
    assert "died twice" in deltas[-1].error
    expected = reference(PROMPTS[0], 200)
    for choice in range(2):
        tokens = tokens_of(deltas, choice)
        assert tokens == expected[: len(tokens)]
        assert len(tokens) > 5
    lives.begin()
    assert tokens_of(await other) == reference(PROMPTS[1], 60)


async def test_a_request_that_no_engine_was_told_does_not_count_its_deaths(llm, lives):
    first = lives.begin()
    await llm.wait_ready()
    await asyncio.to_thread(first.die)
    await until(lambda: not llm.is_ready)
    stream = asyncio.create_task(collect(submit(llm, PROMPTS[0], 60)))
    second = lives.begin(step_time=0.004)
    await until(lambda: second.device.num_executed > 5)
    await asyncio.to_thread(second.die)
    lives.begin()
    assert tokens_of(await stream) == reference(PROMPTS[0], 60)


async def test_closing_a_stream_frees_its_blocks(llm, lives):
    life = lives.begin()
    await llm.wait_ready()
    stream = submit(llm, PROMPTS[0], 400)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()
    assert llm.num_in_flight == 0
    await until(lambda: not life.core.has_work)
    await until(lambda: llm.stats.num_steps > 0 and llm.stats.kv_usage == 0)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_cancelling_whoever_waits_for_a_stream_aborts_it(llm, lives):
    life = lives.begin(step_time=0.2)
    await llm.wait_ready()
    task = asyncio.create_task(collect(submit(llm, PROMPTS[0], 400)))
    await until(lambda: life.core.has_work)
    task.cancel()
    await until(lambda: not life.core.has_work)
    assert llm.num_in_flight == 0


async def test_a_stream_that_is_closed_in_the_tick_of_its_submission_is_never_told(llm, lives):
    life = lives.begin()
    await llm.wait_ready()
    stream = submit(llm, PROMPTS[0], 400)
    await stream.aclose()
    assert tokens_of(await collect(submit(llm, PROMPTS[1]))) == reference(PROMPTS[1], 32)
    assert life.core.stats().num_prompt_tokens == len(PROMPTS[1])


async def test_one_tick_of_the_event_loop_is_one_message(llm, lives, monkeypatch):
    lives.begin()
    await llm.wait_ready()
    sent = []
    send = EngineClient.send
    monkeypatch.setattr(EngineClient, "send", lambda client, message: (sent.append(message), send(client, message)))
    streams = [submit(llm, prompt) for prompt in PROMPTS]
    await streams[0].aclose()
    await asyncio.gather(*map(collect, streams[1:]))
    (batch,) = [message for message in sent if isinstance(message, ClientBatch)]
    assert (len(batch.add), len(batch.abort)) == (len(PROMPTS) - 1, 1)


async def test_a_stop_string_ends_the_choice_here_and_in_the_engine(llm, lives):
    life = lives.begin()
    await llm.wait_ready()
    text = llm.tokenizer.decode(reference(PROMPTS[2], 60))
    stop = text[len(text) // 2 :][:6]
    deltas = await collect(submit(llm, PROMPTS[2], 60, stop=(stop,)))
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].stop_reason == stop
    assert "".join(delta.text for delta in deltas) == text[: text.index(stop)]
    await until(lambda: not life.core.has_work)
    assert life.core.stats().num_output_tokens < 60


async def test_the_queue_limit_refuses_and_recovers(tmp_path):
    launch = build_launch(tmp_path, max_num_seqs=2, max_waiting=3)
    with lives_of(launch) as lives:
        lives.begin()
        llm = build_llm(launch)
        llm.start()
        await llm.wait_ready()
        streams = [submit(llm, [n, 1, 2]) for n in range(5)]
        with pytest.raises(Overloaded):
            submit(llm, [9, 1, 2])
        await asyncio.gather(*map(collect, streams))
        assert tokens_of(await collect(submit(llm, [9, 1, 2]))) == reference([9, 1, 2], 32)
        llm.close()


async def test_a_draining_front_end_refuses_what_is_new_and_finishes_what_runs(llm, lives):
    lives.begin()
    await llm.wait_ready()
    running = asyncio.create_task(collect(submit(llm, PROMPTS[0], 60)))
    await asyncio.sleep(0)
    llm.drain()
    assert not llm.is_ready
    with pytest.raises(Overloaded):
        submit(llm, PROMPTS[1])
    assert tokens_of(await running) == reference(PROMPTS[0], 60)
    await llm.wait_idle()
    llm.undrain()
    assert llm.is_ready


async def test_nothing_is_taken_before_the_first_engine_is_there(llm):
    assert not llm.is_ready
    with pytest.raises(Overloaded):
        submit(llm, PROMPTS[0])


async def test_a_new_front_end_process_makes_the_engine_forget_the_old_ones_requests(launch, lives):
    life = lives.begin()
    old = build_llm(launch, client=0)
    old.start()
    await old.wait_ready()
    submit(old, PROMPTS[0], 400)
    await until(lambda: life.core.has_work)
    old._client.close()  # as if it had been killed: nothing is aborted
    new = build_llm(launch, client=launch.config.server.api_servers)
    new.start()
    await new.wait_ready()
    await until(lambda: not life.core.has_work)
    assert tokens_of(await collect(submit(new, PROMPTS[1]))) == reference(PROMPTS[1], 32)
    new.close()


async def test_two_front_ends_get_their_own_news_and_the_same_gauges(tmp_path):
    launch = build_launch(tmp_path, api_servers=2)
    with lives_of(launch) as lives:
        lives.begin()
        fronts = [build_llm(launch, client) for client in range(2)]
        for llm in fronts:
            llm.start()
            await llm.wait_ready()
        results = await asyncio.gather(*(collect(submit(llm, prompt)) for llm in fronts for prompt in PROMPTS))
        for prompt, deltas in zip(PROMPTS * 2, results, strict=True):
            assert tokens_of(deltas) == reference(prompt, 32)
        await until(lambda: fronts[0].stats == fronts[1].stats != SchedulerStats())
        for llm in fronts:
            llm.close()


async def test_gauges_fall_to_zero_at_once_when_work_ends(llm, lives):
    lives.begin()
    await llm.wait_ready()
    await collect(submit(llm, PROMPTS[0]))
    began = asyncio.get_running_loop().time()
    await until(lambda: llm.stats.num_output_tokens == 32)
    assert (llm.stats.num_running, llm.stats.num_waiting, llm.stats.kv_usage) == (0, 0, 0)
    assert asyncio.get_running_loop().time() - began < 0.3


async def test_pending_work_without_a_step_for_half_a_minute_is_unhealthy(launch, lives):
    now = [100.0]
    llm = build_llm(launch, clock=lambda: now[0])
    life = lives.begin(step_time=0.5)
    llm.start()
    await llm.wait_ready()
    now[0] += 1000
    assert llm.is_healthy  # nothing to do
    stream = asyncio.create_task(collect(submit(llm, PROMPTS[0], 3)))
    await until(lambda: life.core.has_work)
    now[0] += 29
    assert llm.is_healthy
    now[0] += 2
    assert not llm.is_healthy
    deltas = await stream
    assert deltas[-1].finish_reason == "length"
    assert llm.is_healthy
    llm.close()


async def test_malformed_and_foreign_messages_are_dropped_and_counted(llm, lives):
    life = lives.begin()
    await llm.wait_ready()
    for junk in (b"", b"\xc1", b"\x80", b"\x81\xa4type\xa7unknown", b"x" * 1000):
        llm._client._outbox.send(junk)
    (stale,) = llm.input.build([1, 2, 3], SamplingParams(), request_id="stale")
    llm._client.send(ClientBatch(client=0, epoch=99, add=(AddRequest(request=stale),)))
    assert tokens_of(await collect(submit(llm, PROMPTS[0]))) == reference(PROMPTS[0], 32)
    assert life.server.num_dropped == 5
    assert life.core.stats().num_prompt_tokens == len(PROMPTS[0])
