"""Router, scheduler, connector, lender and puller under ten thousand orders of events and faults; see `world.py`."""

from __future__ import annotations

import logging
from collections import Counter
from random import Random

import pytest

from simulation import events, faults
from simulation.pods import Read
from simulation.run import Broken, happen, run
from simulation.world import Settings, World

NUM_WORLDS = 10_000
NUM_TRIES = 5_000  # worlds within which a defect must show


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="penstock")


@pytest.mark.slow
def test_ten_thousand_interleavings_keep_every_invariant():
    num_whole = num_failed = num_preempted = 0
    for seed in range(NUM_WORLDS):
        world = run(seed, Settings())
        num_whole += world.decode.transfers.counts.num_pulls
        num_failed += world.decode.transfers.counts.num_failed_pulls
        num_preempted += world.decode.scheduler.totals.num_preemptions
    # the worlds are worth running: each of these is in every twentieth of them at least
    assert min(num_whole, num_failed, num_preempted) > NUM_WORLDS / 20, (num_whole, num_failed, num_preempted)


@pytest.mark.parametrize(
    "defect",
    [
        {"checks_checksums": False, "checksum_shares": (1.0,)},
        {"keeps_busy_blocks": False},
        {"keeps_departing_blocks": False, "fault_rates": (0.1,), "max_requests": 8, "num_events": 150},
        {"clears_words": False, "checksum_shares": (0.0,), "visits": (8,)},
        {"keeps_records": False},
    ],
    ids=lambda defect: next(iter(defect)),
)
def test_a_world_that_is_broken_on_purpose_is_noticed(defect):
    for seed in range(NUM_TRIES):
        try:
            run(seed, Settings(**defect))
        except Broken:
            return
    pytest.fail(f"nobody noticed within {NUM_TRIES} worlds")


def begun_read(seed: int, settings: Settings) -> tuple[World, Read] | None:
    """A world without faults at a moment in which a READ has begun and not ended."""
    world = World(seed, settings)
    for _ in range(200):
        happen(world, world.random.choice(events.possible(world)), None)
        for read in world.decode.reads.values():
            if read.pull.pull and 0 < read.done < read.num_parts and world.decode.calls:
                return world, read
    return None


def reuse_its_blocks(world: World, read: Read) -> bool:
    """The peer cannot be heard, gives the lease up, and computes something else; True once READ blocks are others."""
    for call in list(world.decode.calls.values()):
        faults.cut_off(world, call)
    for _ in range(400):
        if not world.visitors and not world.num_visits:
            world.num_visits = 1
        own = {events.schedule, events.wake, events.work, events.apply, events.visit, events.end_visit}
        mine = [event for event in events.possible(world) if event[0] in own and event[1] is not world.decode]
        happen(world, world.random.choice(mine), None)
        if [world.prefill.device.memory[block] for block in read.pull.remote] != read.contents:
            return True
    return False


@pytest.mark.parametrize("checks_epoch", [True, False])
def test_a_read_that_outlives_its_lease_does_not_count(checks_epoch):
    settings = Settings(fault_rates=(0.0,), checksum_shares=(0.0,), checks_epoch=checks_epoch)
    num_outlived = 0
    for seed in range(100):
        begun = begun_read(seed, settings)
        if begun is None or not reuse_its_blocks(*begun):
            continue
        world, read = begun
        num_outlived += 1
        try:
            while read in world.decode.reads.values():
                happen(world, (events.read_on, read), None)
            happen(world, (events.wake, world.decode), None)
        except AssertionError:
            assert not checks_epoch
            return
    assert checks_epoch, "nobody noticed"
    assert num_outlived > 5


def test_a_seed_says_everything_about_a_world():
    seed, first, second = Random().getrandbits(32), [], []
    run(seed, Settings(), first.append)
    run(seed, Settings(), second.append)
    assert first == second
    assert len(Counter(line.split()[1] for line in first)) > 3, first
