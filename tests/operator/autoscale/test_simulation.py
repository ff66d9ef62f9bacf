"""The autoscaler over hours, with queues that behave like queues."""

from __future__ import annotations

import itertools
import random

import pytest

from support.simulated_load import SimulatedLoad, a_service


def world(seed: int, arrivals: float, *, prefill: int = 1, decode: int = 2, **spec) -> SimulatedLoad:
    current = {"prefill": prefill, "decode": decode}
    return SimulatedLoad(service=a_service(**spec), rng=random.Random(seed), current=current, arrivals=arrivals)


@pytest.mark.parametrize("seed", range(4))
def test_four_times_the_load_is_answered_within_fifteen_seconds_and_without_flapping(seed):
    run = world(seed, 2.5, decode=3)
    run.run(120)
    step = run.now - run.began
    run.arrivals *= 4
    run.run(600)
    asked = [at - step for at, role, before, after in run.changes if at > step and after > before]
    assert asked
    assert asked[0] <= 15
    for role in run.pods:
        assert len([at for at in run.reversals(role) if at > step]) <= 1, run.changes
    assert sum(len(pod.queue) for pod in run.pods["prefill"]) < 20, "the queue was worked off"
    assert run.held == 0


@pytest.mark.parametrize(("seed", "arrivals"), [(0, 2.0), (1, 3.5), (2, 8.0)])
def test_a_constant_load_that_comes_by_chance_makes_no_oscillation(seed, arrivals):
    run = world(seed, arrivals, prefill=2, decode=6)
    run.run(1500)
    for role in run.pods:
        turns = run.reversals(role)
        assert all(later - earlier > 600 for earlier, later in itertools.pairwise(turns)), run.changes


def test_an_even_load_leads_to_one_number_for_each_role():
    run = world(0, 9.0, prefill=9, decode=19)
    run.is_random = False
    run.run(900)
    settled = dict(run.current)
    run.run(600)
    assert run.current == settled
    assert 9.0 * run.prompt / run.rate < settled["prefill"] <= 4
    assert 9.0 * run.answer_seconds / run.places < settled["decode"] <= 8


def test_when_the_load_has_gone_so_have_the_pods_and_at_last_all_of_them():
    run = world(
        1,
        8.0,
        prefill=3,
        decode=6,
        autoscaling={"mode": "Builtin", "prefill": {"max": 20}, "decode": {"max": 20}, "scaleToZeroAfter": "15m"},
    )
    run.run(60)
    run.arrivals = 0.0
    run.run(500)
    assert run.current == {"prefill": 1, "decode": 1}
    run.run(500)
    assert run.current == {"prefill": 0, "decode": 0}
    run.arrivals = 1.0
    run.run(10)
    assert run.current == {"prefill": 1, "decode": 1}
    run.run(120)
    assert run.held == 0
    assert run.completed > 0
