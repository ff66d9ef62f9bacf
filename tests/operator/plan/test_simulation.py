"""Rollouts and scaling in a random cluster: bounds hold at every moment, and the end is always the same."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock_operator import kinds
from penstock_operator.observed.observe import observe
from support.small_cluster import SmallCluster
from support.small_operator import SmallOperator

PROFILE = settings(max_examples=25, deadline=None, derandomize=True)
SHARES = st.sampled_from([(1, 0), (0, 1), (2, 0), (1, 1), (0, 3), ("25%", "0%"), ("0%", "25%"), ("50%", "50%")])
NUMBERS = st.tuples(st.integers(0, 4), st.integers(1, 6))
SEEDS = st.integers(0, 10_000)


def build_spec(numbers: tuple[int, int], share: tuple[int | str, int | str], restart: str = "0") -> dict[str, Any]:
    """Prefill and decode, or one role where no prefill pod is asked for."""
    spec: dict[str, Any] = {
        "decode": {"replicas": numbers[1]},
        "rollout": {"maxSurge": share[0], "maxUnavailable": share[1], "restartedAt": restart},
    }
    if numbers[0]:
        spec |= {"prefill": {"replicas": numbers[0]}, "connector": {"type": "nixl"}}
    return spec


def assert_in_bounds(operator: SmallOperator) -> None:
    """As a person would count: pods that take room, and pods that take requests."""
    children, _, planned = operator.look()
    cluster = operator.cluster
    observed = observe(operator.service, cluster.view(), {}, cluster.now)
    for role, goal in planned.rollout.goals.items():
        pods = cluster.of(role)
        if len(cluster.of(role, children.revision)) == len(pods):  # it only grows, or grows again
            pods = [pod for pod in pods if not pod.is_leaving]
        num_serving = sum(pod.is_serving for pod in observed.pods if pod.role == role)
        assert len(pods) <= goal.replicas + goal.surge, f"{role}: {len(pods)} pods for {goal}"
        assert num_serving >= goal.replicas - goal.unavailable, f"{role}: {num_serving} serve of {goal}"


def assert_end(operator: SmallOperator, numbers: tuple[int, int]) -> None:
    """Nothing is left of what was before."""
    children, observed, _ = operator.look()
    cluster, wanted = operator.cluster, {"decode" if numbers[0] else "both": numbers[1]}
    if numbers[0]:
        wanted["prefill"] = numbers[0]
    revision = children.revision
    assert {one.role: one.wanted for one in observed.workloads} == wanted
    assert {one.revision for one in observed.workloads} == {revision}
    assert {role: len(cluster.of(role)) for role in wanted} == wanted
    assert all(pod.is_ready for pod in cluster.pods.values())
    assert {scaler: one.request for scaler, one in observed.scalers.items()}.keys() == wanted.keys()
    assert not any(one["metadata"].get("annotations", {}).keys() & MARKS for one in cluster.objects.values())


MARKS = {"penstock.dev/rollout-baseline", "penstock.dev/drained", "controller.kubernetes.io/pod-deletion-cost"}


@PROFILE
@given(numbers=NUMBERS, share=SHARES, seed=SEEDS, lag=st.integers(0, 4))
@example(numbers=(2, 3), share=(1, 0), seed=0, lag=0)
@example(numbers=(1, 4), share=(0, 1), seed=0, lag=0)
def test_a_rollout_ends_and_stays_within_surge_and_unavailability(numbers, share, seed, lag):
    operator = SmallOperator(SmallCluster(random.Random(seed)), build_spec(numbers, share), lag=lag)
    operator.settle()
    operator.change(**build_spec(numbers, share, restart="1"))
    for _ in range(600):
        operator.turn()
        operator.cluster.tick()
        assert_in_bounds(operator)
        if operator.is_done():
            break
    assert_end(operator, numbers)


@PROFILE
@given(numbers=NUMBERS, share=SHARES, seed=SEEDS, turns=st.integers(0, 40))
def test_an_operator_that_dies_anywhere_ends_in_the_same_state(numbers, share, seed, turns):
    cluster = SmallCluster(random.Random(seed))
    operator = SmallOperator(cluster, build_spec(numbers, share), dies=random.Random(seed))
    operator.run(turns)
    operator.change(**build_spec(numbers, share, restart="1"))
    operator.run(turns // 2)
    another = SmallOperator(cluster, operator.spec, dies=random.Random(seed + 1), generation=operator.generation)
    another.settle(num_turns=900)
    assert_end(another, numbers)


@PROFILE
@given(numbers=NUMBERS, share=SHARES, seed=SEEDS, turns=st.integers(0, 30), back_at=st.integers(0, 30))
def test_a_rollback_in_the_middle_is_the_same_path_and_stays_within_bounds(numbers, share, seed, turns, back_at):
    operator = SmallOperator(SmallCluster(random.Random(seed)), build_spec(numbers, share), lag=seed % 3)
    operator.settle()
    for restart, count in (("1", turns), ("2", turns), ("0", back_at), ("1", 0)):
        operator.change(**build_spec(numbers, share, restart=restart))
        for _ in range(count):
            operator.turn()
            operator.cluster.tick()
            assert_in_bounds(operator)
    operator.settle(num_turns=900)
    assert_end(operator, numbers)


@PROFILE
@given(numbers=NUMBERS, share=SHARES, seed=SEEDS, deaths=st.integers(0, 10))
def test_pods_that_die_in_the_middle_are_made_again_and_it_goes_on(numbers, share, seed, deaths):
    rng, cluster = random.Random(seed), SmallCluster(random.Random(seed))
    operator = SmallOperator(cluster, build_spec(numbers, share), lag=seed % 3)
    operator.settle()
    operator.change(**build_spec(numbers, share, restart="1"))
    for _ in range(deaths):
        operator.run(rng.randrange(6))
        if cluster.pods:
            cluster.kill(rng.choice(sorted(cluster.pods)))
    operator.settle(num_turns=900)
    operator.lag = 0
    operator.settle()
    assert_end(operator, numbers)


@PROFILE
@given(requests=st.lists(NUMBERS, min_size=1, max_size=4), budget=st.integers(4, 9), share=SHARES, seed=SEEDS)
@example(requests=[(4, 1), (1, 3)], budget=7, share=(1, 0), seed=0)
def test_pods_of_all_roles_and_revisions_stay_within_the_gpu_budget(requests, budget, share, seed):
    cluster, limits = SmallCluster(random.Random(seed)), {"min": 1, "max": 6}
    scaling = {"mode": "HPA", "prefill": limits, "decode": limits, "gpuBudget": budget}
    gpus = {"prefill": 1, "decode": 2}
    roles = {role: {"resources": {"limits": {"nvidia.com/gpu": count}}} for role, count in gpus.items()}
    operator = SmallOperator(cluster, {**roles, "connector": {"type": "nixl"}, "autoscaling": scaling})
    operator.settle()
    for number, (num_prefill, num_decode) in enumerate(requests):
        operator.scale("prefill", num_prefill)
        operator.scale("decode", num_decode)
        if number % 2:
            rollout = {"maxSurge": share[0], "maxUnavailable": share[1], "restartedAt": str(number)}
            operator.change(rollout=rollout)
        for _ in range(seed % 40):
            operator.turn()
            cluster.tick()
            taken = sum(count * len(cluster.of(role)) for role, count in gpus.items())
            assert taken <= budget, cluster.wanted()


@PROFILE
@given(before=NUMBERS, after=NUMBERS, share=SHARES, seed=SEEDS, turns=st.integers(0, 30))
def test_numbers_and_shape_may_change_in_the_middle_of_a_rollout(before, after, share, seed, turns):
    operator = SmallOperator(SmallCluster(random.Random(seed)), build_spec(before, share))
    operator.settle()
    operator.change(**build_spec(before, share, restart="1"))
    operator.run(turns)
    operator.change(**{"prefill": None, "connector": None, **build_spec(after, share, restart="1")})
    operator.spec = {name: part for name, part in operator.spec.items() if part is not None}
    operator.settle(num_turns=900)
    assert_end(operator, after)


@PROFILE
@given(requests=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=4), seed=SEEDS, lost=st.booleans())
def test_requests_are_followed_and_a_lost_role_scaler_never_shrinks_a_role(requests, seed, lost):
    cluster = SmallCluster(random.Random(seed))
    operator = SmallOperator(cluster, {"prefill": {}, "decode": {}, "connector": {"type": "nixl"}})
    operator.settle()
    for number, (num_prefill, num_decode) in enumerate(requests):
        operator.scale("prefill", num_prefill)
        operator.scale("decode", num_decode)
        if number % 2:
            operator.change(rollout={"restartedAt": str(number)})
        operator.run(seed % 9)
        if lost:
            before = cluster.wanted()
            serving = {role: len(cluster.of(role)) for role in ("prefill", "decode")}
            wanted = {"prefill": num_prefill, "decode": num_decode}
            for role in wanted:
                cluster.objects.pop((kinds.ROLE_SCALER, f"chat-{role}"))
            operator.turn()
            for role, request in wanted.items():
                there = sum(count for name, count in before.items() if f"-{role}-" in name)
                seeded = cluster.objects[kinds.ROLE_SCALER, f"chat-{role}"]["spec"]["replicas"]
                assert seeded >= min(there, request), f"{role}: {before} pods {serving} asked for {seeded}"
                operator.scale(role, request)
        operator.settle(num_turns=900)
        assert_end(operator, (num_prefill, num_decode))
