from __future__ import annotations

import asyncio
import socket
import time

import msgspec
import pytest

from penstock.errors import DeviceError, DeviceFault
from penstock.internal.protocol import Ended
from penstock.kv_transfer.messages import Fetch, ReturnLease, Unattached
from penstock.sampling.params import SamplingParams
from support.lives import BLOCK_SIZE, collect, reference, submit, tokens_of
from support.scripted_worker import Fabric
from support.sharing_lives import SharingPod, pair_of_pods

PROMPT = [7 + n % 300 for n in range(203)]
NUM_WHOLE = (len(PROMPT) - 1) // BLOCK_SIZE
SLOW = {"max_num_batched_tokens": 16}


@pytest.fixture
async def pods(tmp_path):
    async with pair_of_pods(tmp_path) as pair:
        yield pair


async def answer(pod, prompt=PROMPT, max_tokens=12, **options):
    return tokens_of(await collect(submit(pod.llm, prompt, max_tokens, **options)))


async def all_is_given_back(*pods):
    for pod in pods:
        await pod.settle()
        assert pod.life.table.num_held == 0


async def failed_and_answered_all_the_same(prefill, decode):
    assert await answer(decode) == reference(PROMPT, 12)
    assert (decode.stats.num_failed_pulls, decode.stats.num_fallbacks, decode.stats.num_pulls) == (1, 1, 0)


async def test_a_long_prompt_is_computed_by_the_prefill_pod_and_the_rest_here(pods):
    prefill, decode = pods
    assert await answer(decode) == reference(PROMPT, 12)
    assert (decode.stats.num_pulls, decode.stats.num_fallbacks) == (1, 0)
    assert decode.stats.num_pulled_bytes == NUM_WHOLE * 64
    assert decode.stats.num_prompt_tokens == len(PROMPT) - NUM_WHOLE * BLOCK_SIZE
    assert prefill.stats.num_prompt_tokens == NUM_WHOLE * BLOCK_SIZE
    await all_is_given_back(*pods)
    assert any(isinstance(message, ReturnLease) for message in decode.life.worker.log)


async def test_a_short_prompt_stays_here(pods):
    prefill, decode = pods
    assert await answer(decode, PROMPT[:7]) == reference(PROMPT[:7], 12)
    assert prefill.peer.calls == []
    assert decode.stats.num_pulls == 0


async def test_blocks_that_are_here_already_are_not_asked_for(pods):
    prefill, decode = pods
    await answer(decode, PROMPT[:100])
    await answer(decode)
    assert [call.skip for call in prefill.peer.calls] == [0, 25]  # 24 came, one was computed here
    assert decode.stats.num_pulled_bytes == (NUM_WHOLE - 1) * 64


async def test_one_prompt_that_several_want_comes_once(pods):
    prefill, decode = pods
    answers = await asyncio.gather(*(answer(decode, name=f"r{n}") for n in range(5)))
    assert answers == [reference(PROMPT, 12)] * 5
    assert len(prefill.peer.calls) == 1


async def test_a_request_that_an_engine_died_of_asks_nobody(pods):
    prefill, decode = pods
    [request] = decode.llm.input.build(PROMPT, SamplingParams(max_tokens=4, temperature=0.0), request_id="r")
    request = msgspec.structs.replace(request, is_remote_prefill_allowed=False)
    await collect(decode.llm.submit([request]))
    assert prefill.peer.calls == []


async def test_a_request_goes_on_here_after_tokens_that_it_has_from_elsewhere(pods):
    prefill, decode = pods
    known = reference(PROMPT, 12)
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    [request] = decode.llm.input.build(PROMPT, params, request_id="r")
    begun = b"".join(token.to_bytes(4, "little") for token in known[:9])
    stream = decode.llm.submit([request], output_ids={request.handle: begun})
    assert tokens_of(await collect(stream))[-3:] == known[9:]
    assert len(prefill.peer.calls[0].token_ids) == 4 * ((len(PROMPT) + 8) // BLOCK_SIZE * BLOCK_SIZE)
    assert decode.stats.num_pulls == 1


async def test_a_pod_that_somebody_named_is_asked_although_nobody_configured_it(tmp_path):
    async with pair_of_pods(tmp_path) as (prefill, _):
        other = SharingPod(tmp_path / "other", prefill.fabric, role="decode")
        try:
            await other.start()
            [request] = other.llm.input.build(PROMPT, SamplingParams(max_tokens=4, temperature=0.0), request_id="r")
            request = msgspec.structs.replace(request, prefiller=prefill.peer.address)
            assert tokens_of(await collect(other.llm.submit([request]))) == reference(PROMPT, 4)
            assert (other.stats.num_pulls, len(prefill.peer.calls)) == (1, 1)
        finally:
            await other.stop()


async def test_a_lease_that_ended_before_its_word_was_read_makes_the_pull_worthless(pods):
    prefill, decode = pods
    table = prefill.life.table
    decode.life.worker.before_word = lambda: [table.end(row) for row in range(4)]
    await failed_and_answered_all_the_same(*pods)
    await all_is_given_back(*pods)


async def test_what_was_changed_on_its_way_is_noticed_and_computed_here(tmp_path):
    async with pair_of_pods(tmp_path, prefill={"kv_checksums": 1.0}) as pods:
        pods[1].life.worker.is_spoiling = True
        await failed_and_answered_all_the_same(*pods)
        await all_is_given_back(*pods)


async def test_a_pull_that_fails_is_made_up_for_here(pods):
    pods[1].life.worker.pull_problem = "no route"
    await failed_and_answered_all_the_same(*pods)
    await all_is_given_back(*pods)


async def test_a_read_that_never_ends_keeps_its_blocks_until_it_does(pods):
    decode = pods[1]
    decode.life.worker.is_pull_hanging = True
    await failed_and_answered_all_the_same(*pods)
    await decode.until(lambda: not decode.life.core.has_work)
    assert decode.life.core.scheduler.tickets.num_blocks > 0
    assert decode.life.core.check_integrity() is None
    decode.life.worker.release()
    await all_is_given_back(*pods)


async def test_a_pod_that_stops_is_given_up_and_nobody_spins_meanwhile(pods):
    prefill, decode = pods
    prefill.peer.on_call = lambda call, tell: asyncio.sleep(60)
    steps, real = [], decode.life.core.step
    decode.life.core.step = lambda: steps.append(1) or real()
    began = time.monotonic()
    stream = submit(decode.llm, PROMPT, 12)
    await asyncio.sleep(0.8)
    assert len(steps) < 10, "the step loop does not sleep while everything waits"
    assert tokens_of(await collect(stream)) == reference(PROMPT, 12)
    assert 3.0 < time.monotonic() - began < 6.0
    assert decode.stats.num_fallbacks == 1
    await all_is_given_back(*pods)


async def test_an_engine_that_dies_at_a_prefill_counts_against_the_request(tmp_path):
    async with pair_of_pods(tmp_path, step_time=0.05, scheduler=SLOW) as (prefill, decode):
        stream = submit(decode.llm, PROMPT, 12)
        await decode.until(lambda: prefill.stats.num_prompt_tokens > 0)
        await asyncio.to_thread(prefill.life.die)
        assert tokens_of(await collect(stream)) == reference(PROMPT, 12)
        assert stream.num_deaths == 1
        assert decode.stats.num_fallbacks == 1
        await decode.settle()


async def test_a_prefill_pod_that_vanishes_counts_against_the_request_too(tmp_path):
    async with pair_of_pods(tmp_path, step_time=0.05, scheduler=SLOW) as (prefill, decode):
        stream = submit(decode.llm, PROMPT, 12)
        await decode.until(lambda: prefill.stats.num_leases)
        await prefill.peer.die()
        assert tokens_of(await collect(stream)) == reference(PROMPT, 12)
        assert stream.num_deaths == 1
        await all_is_given_back(prefill, decode)


async def test_a_pod_that_refuses_a_call_is_no_death(pods):
    prefill, decode = pods
    prefill.peer.is_refusing = True
    stream = submit(decode.llm, PROMPT, 12)
    assert tokens_of(await collect(stream)) == reference(PROMPT, 12)
    assert (stream.num_deaths, decode.stats.num_fallbacks) == (0, 1)


async def test_a_client_that_leaves_gives_everything_back_on_both_sides(tmp_path):
    async with pair_of_pods(tmp_path, step_time=0.05, scheduler=SLOW) as (prefill, decode):
        stream = submit(decode.llm, PROMPT, 12)
        await decode.until(lambda: prefill.stats.num_leases)
        await stream.aclose()
        await all_is_given_back(prefill, decode)
        assert prefill.stats.num_prompt_tokens < len(PROMPT) - 16, "it computed for nobody"
        assert (decode.stats.num_failed_pulls, decode.stats.num_fallbacks) == (0, 0)


async def test_a_lease_lives_while_it_is_renewed(tmp_path):
    lease = {"kv_lease_seconds": 1.0}
    async with pair_of_pods(tmp_path, prefill=lease, decode=lease, step_time=0.15, scheduler=SLOW) as pods:
        assert await answer(pods[1], max_tokens=2) == reference(PROMPT, 2)
        assert pods[1].stats.num_pulls == 1


async def test_a_lease_that_nobody_renews_ends_and_what_it_was_for_is_not_computed_any_further(tmp_path):
    lease = {"kv_lease_seconds": 1.0}
    async with pair_of_pods(tmp_path, prefill=lease, decode=lease, step_time=0.15, scheduler=SLOW) as (prefill, decode):
        prefill.peer.renew = lambda renewal: None
        assert await answer(decode, max_tokens=2) == reference(PROMPT, 2)
        assert decode.stats.num_fallbacks == 1
        await all_is_given_back(prefill, decode)
        assert prefill.stats.num_prompt_tokens < NUM_WHOLE * BLOCK_SIZE


async def test_a_lease_of_an_idle_pod_ends_as_well(tmp_path):
    async with pair_of_pods(tmp_path, prefill={"kv_lease_seconds": 1.0}) as (prefill, _):
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        [request] = prefill.llm.input.build(PROMPT[:200], params, request_id="r")
        async with asyncio.timeout(5):
            said = [announcement async for news in prefill.llm.lend(request, 0) for announcement in news]
        assert said[-1] == Ended()
        assert prefill.llm.num_in_flight == 0
        await all_is_given_back(prefill)


async def test_many_prompts_at_once_are_all_right_wherever_they_are_computed(pods):
    prompts = [[n, *PROMPT[: 20 + 9 * n]] for n in range(20)]
    answers = await asyncio.gather(*(answer(pods[1], prompt, name=f"r{n}") for n, prompt in enumerate(prompts)))
    assert answers == [reference(prompt, 12) for prompt in prompts]
    assert pods[1].stats.num_pulls > 0
    await all_is_given_back(*pods)


async def test_a_decode_pod_that_is_nearly_full_takes_what_fits_and_all_ends_well(tmp_path):
    async with pair_of_pods(tmp_path, num_blocks=(512, 90)) as (prefill, decode):
        prompts = [[n, *PROMPT[: 100 + 10 * n]] for n in range(10)]
        answers = await asyncio.gather(*(answer(decode, prompt, name=f"r{n}") for n, prompt in enumerate(prompts)))
        assert answers == [reference(prompt, 12) for prompt in prompts]
        assert decode.stats.num_fallbacks == 0
        await all_is_given_back(prefill, decode)


async def test_prompts_that_had_to_wait_for_room_are_computed_by_the_prefill_pod_all_the_same(tmp_path):
    async with pair_of_pods(tmp_path, num_blocks=(512, 90), step_time=0.005) as (prefill, decode):
        prompts = [[n, *PROMPT] for n in range(10)]
        answers = await asyncio.gather(*(answer(decode, prompt, name=f"r{n}") for n, prompt in enumerate(prompts)))
        assert answers == [reference(prompt, 12) for prompt in prompts]
        assert decode.stats.num_pulls >= 8
        await all_is_given_back(prefill, decode)


async def test_a_worker_whose_transfer_thread_ends_ends_the_engine(tmp_path):
    async with pair_of_pods(tmp_path) as (_, decode):
        decode.life.worker._channel._socket.shutdown(socket.SHUT_RDWR)
        await decode.until(lambda: decode.life.failure)
        failure, decode.life.failure = decode.life.failure, None
        assert str(failure) == "the worker's transfer thread is gone"


async def test_a_device_that_fails_while_it_copies_ends_the_engine_with_its_exit_code(tmp_path):
    async with pair_of_pods(tmp_path) as (_, decode):
        decode.life.worker._send(Unattached.of(DeviceError(DeviceFault.HARDWARE, "uncorrectable ECC error")))
        await decode.until(lambda: decode.life.failure)
        failure, decode.life.failure = decode.life.failure, None
        assert (type(failure), failure.exit_code) == (DeviceError, 82)


async def test_an_urgent_prompt_that_finds_no_room_gets_that_of_one_that_cannot_go_on(tmp_path):
    scheduler = SLOW | {"policy": "priority", "max_skip_ahead": 0}
    slow = {"scheduler": scheduler, "step_time": 0.05, "num_blocks": (60, 512)}
    async with pair_of_pods(tmp_path, decode={"kv_stall_seconds": 30.0}, **slow) as (prefill, decode):
        prompts = [[n, *PROMPT] for n in range(2)]
        params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
        streams = []
        for prompt, priority in zip(prompts, (5, 0), strict=True):
            [request] = decode.llm.input.build(prompt, params, request_id="r", priority=priority)
            request = msgspec.structs.replace(request, prefiller=prefill.peer.address)
            streams.append(decode.llm.submit([request]))
            await decode.until(lambda: prefill.stats.num_leases)
        answers = [tokens_of(deltas) for deltas in await asyncio.gather(*map(collect, streams))]
        assert answers == [reference(prompt, 4) for prompt in prompts]
        assert (decode.stats.num_pulls, decode.stats.num_fallbacks) == (1, 1)
        await all_is_given_back(prefill, decode)


async def test_blocks_that_left_the_cache_come_back_from_the_tier(tmp_path):
    pod = SharingPod(tmp_path / "pod", Fabric(), kv_offload_memory=1 << 20)
    try:
        await pod.start(num_blocks=70)
        await answer(pod)
        await pod.settle()
        await answer(pod, [n + 5 for n in PROMPT])
        await pod.settle()
        assert await answer(pod) == reference(PROMPT, 12)
        assert any(isinstance(message, Fetch) for message in pod.life.worker.log)
        assert pod.stats.num_prompt_tokens < 2.2 * len(PROMPT)
        assert (pod.stats.num_pulls, pod.stats.num_fallbacks) == (0, 0)
        await pod.settle()
    finally:
        await pod.stop()


async def test_what_the_tier_lost_is_computed(tmp_path):
    pod = SharingPod(tmp_path / "pod", Fabric(), kv_offload_memory=1 << 20)
    try:
        await pod.start(num_blocks=70)
        await answer(pod)
        await pod.settle()
        await answer(pod, [n + 5 for n in PROMPT])
        await pod.settle()
        for name in list(pod.life.worker.stored)[20:]:
            del pod.life.worker.stored[name]
        assert await answer(pod) == reference(PROMPT, 12)
        await pod.settle()
    finally:
        await pod.stop()
