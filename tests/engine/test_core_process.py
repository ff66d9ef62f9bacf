from __future__ import annotations

import asyncio

import msgspec
import pytest

from penstock.config import EngineConfig, ModelConfig
from penstock.engine.context import fit_context
from penstock.engine.messages import AddRequest, ClientBatch, SchedulerStats
from penstock.errors import OutOfMemory
from penstock.sampling.params import SamplingParams
from penstock.worker.capacity import Capacity
from support.lives import (
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


async def test_a_new_front_end_process_makes_the_engine_forget_the_old_ones_requests(launch, lives):
    life = lives.begin(step_time=0.05)
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
    assert tokens_of(await collect(submit(new, PROMPTS[1], 4))) == reference(PROMPTS[1], 4)
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


async def test_broken_block_accounting_of_an_idle_engine_is_counted_and_not_fatal(llm, lives):
    life = lives.begin()
    await llm.wait_ready()
    life.core.scheduler.kv.pool.allocate(1)  # nobody gives this one back
    await collect(submit(llm, PROMPTS[0]))
    await until(lambda: llm.stats.integrity_failures == 1)
    assert tokens_of(await collect(submit(llm, PROMPTS[1]))) == reference(PROMPTS[1], 32)


def capacity_of(num_blocks):
    return Capacity(num_blocks=num_blocks, block_bytes=1 << 20, weights_bytes=1, load_seconds=1.0)


def asking_for(launch, max_model_len):
    config = EngineConfig(model=ModelConfig(max_model_len=max_model_len), cache=launch.config.cache)
    return msgspec.structs.replace(launch, config=config, max_model_len=max_model_len or CONTEXT)


def test_the_context_shrinks_to_what_memory_holds_if_nobody_asked_for_more(launch):
    assert fit_context(launch.config, CONTEXT, capacity_of(1 + CONTEXT)) == CONTEXT
    assert fit_context(launch.config, CONTEXT, capacity_of(1 + 10)) == 40  # blocks of 4 tokens, and the dummy block


def test_a_context_that_was_asked_for_must_fit(launch):
    assert fit_context(asking_for(launch, 40).config, CONTEXT, capacity_of(1 + 10)) == 40
    with pytest.raises(OutOfMemory, match="44 needs 11 MiB; lower --max-model-len"):
        fit_context(asking_for(launch, 44).config, CONTEXT, capacity_of(1 + 10))


def test_not_even_one_block_is_out_of_memory(launch):
    with pytest.raises(OutOfMemory):
        fit_context(launch.config, CONTEXT, capacity_of(1))
