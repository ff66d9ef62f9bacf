"""With steps in flight: what they may touch goes to nobody else, and what they compute is nobody's yet."""

from __future__ import annotations

import msgspec
import pytest

from support.engines import BLOCK_SIZE, build_bench, build_request
from support.fake_device import FakeDevice, next_token

PROMPT = list(range(6))
NAMES = [bytes([n]) * 16 for n in range(7)]


@pytest.mark.parametrize("leaves_by", ["abort", "stop"])
def test_a_block_that_a_step_in_flight_may_write_to_goes_to_no_arrival(leaves_by: str):
    scheduler, device = build_bench(num_blocks=8).core.scheduler, FakeDevice(8, BLOCK_SIZE)
    request = build_request(0, PROMPT)
    request = msgspec.structs.replace(request, stop_ids=(next_token(request.prompt_array()),))
    scheduler.add(request)
    plans = [scheduler.schedule(), scheduler.schedule()]  # the second computes a token that may be one too many
    assert None not in plans
    results = [device.execute(plan) for plan in plans]
    if leaves_by == "abort":
        scheduler.abort([request.key])
        assert scheduler.tickets.begin_arrival(1, NAMES[:6], spare=0) is None
    scheduler.apply(results[0])
    assert not scheduler.running.size
    held = device.rows[plans[0].new_rows[0].row].blocks
    assert len(held) == 2
    assert scheduler.tickets.begin_arrival(1, NAMES[:6], spare=0) is None
    _, blocks = scheduler.tickets.begin_arrival(1, NAMES[:5], spare=0)
    assert not set(blocks) & set(held)
    scheduler.apply(results[1])
    _, blocks = scheduler.tickets.begin_arrival(2, NAMES[:7], spare=0)
    assert set(blocks) == set(held)


def test_what_a_step_in_flight_computes_is_neither_found_nor_lent():
    scheduler = build_bench(max_num_batched_tokens=8).core.scheduler
    device, request = FakeDevice(64, BLOCK_SIZE), build_request(0, list(range(16)))
    hashes = [request.block_hashes[at : at + 16] for at in range(0, 64, 16)]
    scheduler.add(request)
    results = [device.execute(scheduler.schedule()) for _ in range(2)]
    num_lent = [len(scheduler.tickets.lend(hashes))]
    for result in results:
        scheduler.apply(result)
        num_lent.append(len(scheduler.tickets.lend(hashes)))
    assert num_lent == [0, 2, 4]
