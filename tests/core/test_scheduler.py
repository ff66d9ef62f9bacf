from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.request import FinishReason
from penstock.core.trace import TraceMismatch, replay
from support.engines import BLOCK_SIZE, build_bench
from support.fake_device import EOS, AsyncFakeDevice, FakeDevice, expected_outputs


def expected(request):
    return expected_outputs(request.prompt_array(), request.max_total, request.stop_ids)


def test_one_request_gets_its_tokens_and_ends():
    bench = build_bench()
    request = bench.add([1, 2, 3], max_tokens=5)
    bench.run()
    assert bench.outputs[0] == expected(request)
    assert bench.finished[0] in (FinishReason.LENGTH, FinishReason.STOP)
    bench.check()


def test_a_stop_token_ends_a_request_early():
    bench = build_bench(max_model_len=4096, num_blocks=2000)
    requests = [bench.add([n, n + 1], max_tokens=1500) for n in range(4)]
    bench.run()
    ended = [r for r in requests if bench.finished[r.handle] == FinishReason.STOP]
    assert ended, "none of four long requests met the stop token"
    assert all(bench.outputs[r.handle][-1] == EOS and EOS not in bench.outputs[r.handle][:-1] for r in ended)


def test_a_long_prompt_is_computed_in_chunks_beside_running_ones():
    bench = build_bench(num_blocks=200, max_model_len=400, max_num_batched_tokens=16)
    short = bench.add([1, 2, 3], max_tokens=30)
    bench.step()
    long = bench.add(list(range(100)), max_tokens=4)
    sizes = []
    while long.handle not in bench.finished:
        before = len(bench.outputs[short.handle])
        bench.step()
        sizes.append(len(bench.outputs[short.handle]) - before)
    assert sizes[:6] == [1] * 6, "the running stream stood still while the prompt was computed"
    bench.run()
    assert bench.outputs[long.handle] == expected(long)


def test_a_second_request_finds_the_first_ones_blocks_and_never_all_of_them():
    bench = build_bench()
    first = bench.add(list(range(16)), max_tokens=2)
    bench.run()
    second = bench.add(list(range(16)), max_tokens=2)
    bench.run()
    assert (bench.cached[first.handle], bench.cached[second.handle]) == (0, 12)  # at most (16 - 1) // 4 blocks
    assert bench.outputs[second.handle] == expected(second)


def test_generated_blocks_are_found_by_the_next_turn_of_a_chat():
    bench = build_bench()
    first = bench.add(list(range(8)), max_tokens=9)
    bench.run()
    turn = [*range(8), *bench.outputs[first.handle], 5, 5]
    second = bench.add(turn, max_tokens=2)
    bench.run()
    assert bench.cached[second.handle] >= 12


def test_salts_keep_tenants_apart():
    bench = build_bench()
    bench.add(list(range(16)), salt="one")
    bench.run()
    other = bench.add(list(range(16)), salt="two")
    bench.run()
    assert bench.cached[other.handle] == 0


def test_choices_of_one_prompt_compute_it_once():
    bench = build_bench(num_blocks=100, max_num_batched_tokens=16)
    requests = [bench.add(list(range(40)), max_tokens=3) for _ in range(3)]
    bench.run()
    assert [bench.cached[r.handle] for r in requests] == [0, 36, 36]


def test_out_of_blocks_preempts_and_everyone_still_gets_exact_tokens():
    bench = build_bench(num_blocks=17, max_model_len=48)
    requests = [bench.add([n, 1, 2, 3, 4], max_tokens=24) for n in range(6)]
    bench.run()
    assert bench.core.stats().num_preemptions > 0
    assert all(bench.outputs[r.handle] == expected(r) for r in requests)
    assert all(list(bench.cached).count(r.handle) == 1 for r in requests)
    bench.check()


def test_the_oldest_request_is_never_preempted():
    bench = build_bench(num_blocks=17, max_model_len=48)
    oldest = bench.add(list(range(50, 58)), max_tokens=30)
    others = [bench.add([n, 1], max_tokens=30) for n in range(7)]
    preempted_before = 0
    while oldest.handle not in bench.finished:
        bench.step()
        assert oldest.handle in bench.finished or any(
            bench.core.scheduler.table.handle[row] == oldest.handle for row in bench.core.scheduler.running
        )
        preempted_before = bench.core.stats().num_preemptions
    assert preempted_before > 0
    bench.run()
    assert all(bench.outputs[r.handle] == expected(r) for r in others)


def test_priority_goes_first_and_takes_the_place_of_less_urgent_rows():
    bench = build_bench(policy="priority", max_num_seqs=2)
    slow = [bench.add([n, n], max_tokens=40, priority=5) for n in range(2)]
    bench.step()
    urgent = bench.add([9, 9, 9], max_tokens=3, priority=0)
    bench.run()
    order = list(bench.finished)
    assert order[0] == urgent.handle
    assert all(bench.outputs[r.handle] == expected(r) for r in [*slow, urgent])


def test_a_request_that_does_not_fit_is_overtaken_a_bounded_number_of_times():
    bench = build_bench(num_blocks=25, max_model_len=96, max_num_seqs=8, max_skip_ahead=3)
    bench.add([1] * 4, max_tokens=40)
    bench.step()
    big = bench.add([2] * 80, max_tokens=4)
    small = [bench.add([3 + n] * 3, max_tokens=2) for n in range(12)]
    bench.run()
    order = list(bench.finished)
    overtakers = [r for r in small if order.index(r.handle) < order.index(big.handle)]
    assert 1 <= len(overtakers) <= 3 + 1


def test_abort_frees_rows_and_blocks_of_waiting_and_running_requests():
    bench = build_bench(max_num_seqs=2)
    requests = [bench.add([n] * 10, max_tokens=30) for n in range(5)]
    bench.step()
    bench.core.abort([r.key for r in requests])
    bench.run()
    assert bench.core.stats().kv_usage == 0
    assert bench.core.stats().num_waiting_tokens == 0
    bench.check()


def test_a_request_told_again_with_its_outputs_goes_on_where_it_was():
    alone = build_bench()
    request = alone.add(list(range(10)), max_tokens=20)
    alone.run()
    whole = alone.outputs[request.handle]
    again = build_bench()
    again.outputs[request.handle] = []
    again.core.add(request, np.array(whole[:6], dtype=np.int32).tobytes())
    again.run()
    assert again.outputs[request.handle] == whole[6:]
    assert again.cached == {}  # the client already knows what was cached


def test_depth_two_keeps_the_device_busy_and_changes_no_token():
    device = AsyncFakeDevice(200, BLOCK_SIZE, depth=2, step_time=0.002)
    bench = build_bench(device=device, max_model_len=128)
    try:
        requests = [bench.add([n, 2, 3], max_tokens=60) for n in range(5)]
        bench.run()
    finally:
        device.close()
    assert all(bench.outputs[r.handle] == expected(r) for r in requests)
    assert device.num_executed > 40
    assert device.num_waited < device.num_executed / 4, "the next step was not there when the device became free"
    bench.check()


def test_a_recorded_trace_is_decided_again_exactly(tmp_path):
    trace = tmp_path / "trace"
    bench = build_bench(num_blocks=17, max_model_len=48, trace_file=str(trace))
    requests = [bench.add([n % 2] * (n + 1), max_tokens=20) for n in range(8)]
    for _ in range(6):
        bench.step()
    bench.core.abort([requests[3].key])
    bench.run()
    assert bench.core.stats().num_preemptions > 0
    bench.core.close()
    assert replay(trace) == bench.core.stats().num_steps
    other = trace.with_name("other")
    data = bytearray(trace.read_bytes())
    data[-1000] ^= 1
    other.write_bytes(data)
    with pytest.raises(TraceMismatch):
        replay(other)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(0, 2)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    actions=actions,
    num_blocks=st.integers(17, 60),
    depth=st.integers(1, 3),
    budget=st.integers(8, 64),
    policy=st.sampled_from(["fcfs", "priority"]),
    has_cache=st.booleans(),
)
def test_any_history_keeps_the_invariants_and_every_token_is_exact(
    actions, num_blocks, depth, budget, policy, has_cache
):
    """Requests share prefixes (family), arrive, leave and run out of blocks in any order, at any pipeline depth."""
    bench = build_bench(
        device=FakeDevice(num_blocks, BLOCK_SIZE, depth),
        max_num_seqs=8,
        max_num_batched_tokens=budget,
        policy=policy,
        enable_prefix_caching=has_cache,
    )
    requests, aborted = [], set()
    for action in actions:
        match action:
            case ("add", family, length, max_tokens, priority):
                prompt = [family] * min(length, 20) + list(range(max(0, length - 20)))
                requests.append(bench.add(prompt, max_tokens, priority=priority))
            case ("step", times):
                for _ in range(times):
                    bench.step()
            case ("abort", index) if index < len(requests):
                bench.core.abort([requests[index].key])
                if requests[index].handle not in bench.finished:
                    aborted.add(index)
        problem = bench.core.scheduler.kv.pool.check_integrity()
        assert problem is None, problem
    bench.run()
    for index, request in enumerate(requests):
        got = bench.outputs[request.handle]
        assert got == expected(request)[: len(got)]
        assert index in aborted or len(got) == len(expected(request))
    assert bench.core.stats().kv_usage == 0
    bench.check()
