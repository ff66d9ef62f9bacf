"""What holds for whatever pods say."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_operator.autoscale.budget import fit
from penstock_operator.autoscale.decide import decide, window_seconds
from penstock_operator.autoscale.history import History
from penstock_operator.autoscale.signals import PodLoad, RoleLoad, Signals
from support.simulated_load import a_service

WINDOWS = {"up": "0s", "down": "20s"}
ROLES = ("prefill", "decode")

shares = st.floats(0, 1)
pod_loads = st.builds(
    PodLoad,
    running=st.integers(0, 64),
    waiting=st.integers(0, 500),
    queued_tokens=st.integers(0, 1 << 20),
    kv_usage=shares,
    prefill_rate=st.none() | st.floats(1, 1e6),
    prompt_tokens=st.integers(0, 1 << 40),
    output_tokens=st.integers(0, 1 << 40),
    max_num_seqs=st.integers(0, 256),
)
role_loads = st.builds(
    RoleLoad,
    pods=st.dictionaries(st.sampled_from([f"pod-{number}" for number in range(6)]), pod_loads, max_size=6),
    num_starting=st.integers(0, 4),
    missing=st.sampled_from([(), (), (), ("pod-x",)]),
)
looks = st.lists(
    st.tuples(st.floats(0.5, 40), role_loads, role_loads, st.integers(0, 300), st.booleans()), min_size=1, max_size=30
)


def history_of(service, told) -> History:
    history, now = History(), 1_000_000.0
    for seconds, prefill, decode_load, held, has_router in told:
        now += seconds
        said = Signals(
            at=now,
            roles={"prefill": prefill, "decode": decode_load},
            has_router=has_router,
            is_router_missing=False,
            held=held if has_router else 0,
            in_flight=held if has_router else 0,
            finished=0,
            rejected=0,
        )
        history.add(said, service.spec, window_seconds(service.spec.autoscaling))
    return history


def scaled(**autoscaling):
    return a_service(
        autoscaling={"mode": "Builtin", "windows": WINDOWS, "prefill": {"max": 9}, "decode": {"min": 2, "max": 7}}
        | autoscaling
    )


@settings(max_examples=80, deadline=None)
@given(told=looks, prefill=st.integers(1, 9), decoders=st.integers(2, 7), budget=st.integers(3, 40))
def test_limits_and_budget_are_kept_whatever_is_said(told, prefill, decoders, budget):
    service = scaled(gpuBudget=budget)
    history = history_of(service, told)
    verdict = decide(
        service, history, {"prefill": prefill, "decode": decoders}, {"prefill": 1, "decode": 1}, now=history.signals.at
    )
    assert 1 <= verdict.targets["prefill"] <= 9
    assert 2 <= verdict.targets["decode"] <= 7
    assert sum(verdict.targets.values()) <= max(budget, 3)


@settings(max_examples=80, deadline=None)
@given(told=looks, current=st.tuples(st.integers(1, 9), st.integers(2, 7)), zero=st.booleans())
def test_a_role_is_never_scaled_while_one_of_its_pods_does_not_answer(told, current, zero):
    service = scaled(**({"scaleToZeroAfter": "1s"} if zero else {}))
    *before, (seconds, prefill, decode_load, held, has_router) = told
    told = [*before, (seconds, replace(prefill, missing=("pod-y",)), decode_load, held, has_router)]
    history = history_of(service, told)
    now = dict(zip(ROLES, current, strict=True))
    verdict = decide(service, history, now, dict.fromkeys(now, 1), now=history.signals.at)
    assert verdict.targets["prefill"] == now["prefill"]
    assert verdict.holds["prefill"]


@settings(max_examples=60, deadline=None)
@given(told=looks, current=st.tuples(st.integers(1, 9), st.integers(2, 7)))
def test_nothing_that_is_said_once_makes_a_role_shrink(told, current):
    service = scaled()
    history = history_of(service, told[:1])
    now = dict(zip(ROLES, current, strict=True))
    verdict = decide(service, history, now, dict.fromkeys(now, 1), now=history.signals.at)
    assert all(verdict.targets[role] >= now[role] for role in now)


@settings(max_examples=60, deadline=None)
@given(told=looks, current=st.tuples(st.integers(1, 9), st.integers(2, 7)), seconds=st.floats(31, 1000))
def test_silence_of_all_holds_everything(told, current, seconds):
    service = scaled()
    silent = RoleLoad(pods={}, num_starting=0, missing=("pod-0", "pod-1"))
    history = history_of(service, [*told, (1.0, silent, silent, 0, False), (seconds, silent, silent, 0, False)])
    now = dict(zip(ROLES, current, strict=True))
    assert decide(service, history, now, dict.fromkeys(now, 1), now=history.signals.at).targets == now


@settings(max_examples=60, deadline=None)
@given(
    kv=st.floats(0, 5),
    work=st.floats(0, 5),
    start=st.tuples(st.integers(1, 9), st.integers(2, 7)),
    budget=st.integers(4, 20),
)
def test_a_load_that_stays_leads_to_a_number_that_stays(kv, work, start, budget):
    """`kv` and `work` in pods; spread evenly over the pods that are there."""
    service, history = scaled(gpuBudget=budget), History()
    current, now, computed, seen = dict(zip(ROLES, start, strict=True)), 1_000_000.0, 0.0, []
    for _ in range(150):
        now += 2.0
        computed += 2.0 * work * 1000
        roles = {
            role: RoleLoad(
                pods={
                    f"pod-{number}": PodLoad(
                        running=4,
                        waiting=0,
                        queued_tokens=0,
                        kv_usage=min(1.0, kv / current[role]),
                        prefill_rate=1000.0,
                        prompt_tokens=round(computed / current[role]) if role == "prefill" else 0,
                        output_tokens=0,
                        max_num_seqs=64,
                    )
                    for number in range(current[role])
                },
                num_starting=0,
                missing=(),
            )
            for role in ROLES
        }
        said = Signals(
            at=now,
            roles=roles,
            has_router=True,
            is_router_missing=False,
            held=0,
            in_flight=4,
            finished=0,
            rejected=0,
        )
        history.add(said, service.spec, (0.0, 20.0))
        current = dict(decide(service, history, current, dict.fromkeys(ROLES, 1), now).targets)
        seen.append(tuple(current.values()))
    assert len(set(seen[-50:])) == 1, seen
    for role in (0, 1):  # one way or the other, but not there and back
        steps = [after[role] - before[role] for before, after in itertools.pairwise(seen)]
        signs = [step > 0 for step in steps if step]
        assert sum(one != other for one, other in itertools.pairwise(signs)) <= 1, seen


@given(
    wanted=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    current=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    least=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    gpus=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    budget=st.integers(1, 400),
)
def test_the_budget_gives_nobody_more_than_wanted_and_wastes_nothing(wanted, current, least, gpus, budget):
    wanted = tuple(map(max, wanted, least))
    by_role = [dict(zip(ROLES, values, strict=True)) for values in (wanted, current, least, gpus)]
    given_pods = fit(*by_role, budget)
    cost = sum(given_pods[role] * by_role[3][role] for role in ROLES)
    for role in ROLES:
        assert by_role[2][role] <= given_pods[role] <= by_role[0][role]
        if given_pods[role] < by_role[0][role]:
            assert cost + by_role[3][role] > budget, "there was room for one more"
    assert cost <= budget or all(given_pods[role] == by_role[2][role] for role in ROLES if by_role[3][role])
