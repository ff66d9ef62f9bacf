from __future__ import annotations

import asyncio

import numpy as np
import pytest

from penstock.engine.client import EngineClient
from penstock.engine.messages import (
    ClientBatch,
    ClientHello,
    EngineDown,
    EngineReady,
    StepOutputs,
)
from penstock.errors import Overloaded
from support.lives import (
    BLOCK_SIZE,
    CONTEXT,
    PROMPTS,
    build_launch,
    build_llm,
    collect,
    lives_of,
    reference,
    submit,
    tokens_of,
    until,
)


@pytest.fixture
def sent(monkeypatch):
    """What the front-end sends, which goes out as ever."""
    messages, send = [], EngineClient.send
    monkeypatch.setattr(EngineClient, "send", lambda client, message: (messages.append(message), send(client, message)))
    return messages


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


async def test_outputs_of_a_former_engine_are_ignored_once_its_successor_was_told_everything(llm, lives):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    stream = submit(llm, PROMPTS[0], 60)
    (handle,) = stream.open_handles
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.die)
    lives.begin(step_time=0.004)
    await until(lambda: llm.epoch == 2)
    columns = {"handles": np.array([handle]), "token_ids": np.array([1], np.int32), "finish": np.zeros(1, np.uint8)}
    llm._receive(StepOutputs(epoch=1, **columns))
    assert tokens_of(await collect(stream)) == reference(PROMPTS[0], 60)


async def test_a_request_of_the_tick_in_which_an_engine_becomes_ready_is_told_once(llm, lives, sent):
    first = lives.begin()
    await llm.wait_ready()
    await asyncio.to_thread(first.die)
    await until(lambda: not llm.is_ready)
    sent.clear()
    submit(llm, PROMPTS[0])
    llm._receive(EngineReady(epoch=2, num_blocks=1, block_size=BLOCK_SIZE, max_model_len=CONTEXT))
    await asyncio.sleep(0.05)
    assert [len(message.add) for message in sent if isinstance(message, ClientBatch)] == [1]


async def test_a_successor_that_is_faster_than_the_word_of_the_death_is_accepted_and_the_death_counts(llm, lives):
    first = lives.begin(step_time=0.004)
    await llm.wait_ready()
    short, long = (asyncio.create_task(collect(submit(llm, PROMPTS[0], length))) for length in (60, 400))
    await until(lambda: first.device.num_executed > 5)
    await asyncio.to_thread(first.end)
    second = lives.begin(step_time=0.004)
    llm._client.send(ClientHello(client=0))
    await until(lambda: llm.epoch == 2)
    await asyncio.to_thread(first.die)  # the word comes now, and is old
    assert llm.is_ready
    assert tokens_of(await short) == reference(PROMPTS[0], 60)
    await asyncio.to_thread(second.die)
    assert (await long)[-1].finish_reason == "error"


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


async def test_the_death_of_an_engine_that_was_not_told_of_a_request_does_not_count(llm, lives):
    first = lives.begin()
    await llm.wait_ready()
    await asyncio.to_thread(first.end)
    stream = submit(llm, PROMPTS[0], 60)
    llm._receive(EngineDown(epoch=1))  # in the same tick
    task = asyncio.create_task(collect(stream))
    second = lives.begin(step_time=0.004)
    await until(lambda: second.device.num_executed > 5)
    await asyncio.to_thread(second.die)
    lives.begin()
    assert tokens_of(await task) == reference(PROMPTS[0], 60)


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


async def test_one_tick_of_the_event_loop_is_one_message(llm, lives, sent):
    lives.begin()
    await llm.wait_ready()
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
