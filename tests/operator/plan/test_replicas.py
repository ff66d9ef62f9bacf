"""How many pods a role should have: requests, limits, the GPU budget."""

from __future__ import annotations

import random

import pytest

from penstock_operator.errors import SpecError
from penstock_operator.plan.replicas import build_targets
from support.small_cluster import SmallCluster
from support.small_operator import SmallOperator

GPU = {"limits": {"nvidia.com/gpu": 2}}
PAIR = {"prefill": {"resources": GPU}, "decode": {"resources": GPU}, "connector": {"type": "nixl"}}


def asked(spec, *, schedule_now=None, **requests: int):
    """Targets after somebody scaled the RoleScalers."""
    operator = SmallOperator(SmallCluster(random.Random(0)), spec)
    operator.settle()
    for role, request in requests.items():
        operator.scale(role, request)
    _, observed, _ = operator.look()
    return {
        role: (target.replicas, target.limited_by) for role, target in build_targets(operator.service, observed).items()
    }


def scaled(mode="Builtin", **parts):
    return {
        **PAIR,
        "autoscaling": {"mode": mode, "prefill": {"min": 1, "max": 4}, "decode": {"min": 2, "max": 6}, **parts},
    }


def test_a_request_is_followed_where_nothing_limits_it():
    assert asked({"decode": {}}, both=5) == {"both": (5, "")}
    assert asked({"decode": {}}, both=0) == {"both": (0, "")}


def test_fixed_replicas_come_before_a_request_and_it_is_said():
    assert asked({"decode": {"replicas": 3}}, both=5) == {"both": (3, "replicas")}


def test_a_request_is_kept_between_min_and_max():
    assert asked(scaled(), prefill=9, decode=1) == {"prefill": (4, "max"), "decode": (2, "min")}
    assert asked(scaled(), prefill=3, decode=3) == {"prefill": (3, ""), "decode": (3, "")}


def test_zero_is_for_services_that_may_be_scaled_to_zero():
    assert asked(scaled(), prefill=0, decode=0) == {"prefill": (1, "min"), "decode": (2, "min")}
    assert asked(scaled(scaleToZeroAfter="5m"), prefill=0, decode=0) == {"prefill": (0, ""), "decode": (0, "")}


def test_advice_limits_nobody():
    assert asked(scaled("Advisory"), prefill=9, decode=9) == {"prefill": (9, ""), "decode": (9, "")}


def test_a_role_without_limits_is_not_limited():
    spec = {**PAIR, "autoscaling": {"mode": "Builtin", "decode": {"max": 4}}}
    assert asked(spec, prefill=7, decode=7) == {"prefill": (7, ""), "decode": (4, "max")}


def test_both_roles_stay_within_the_gpu_budget():
    targets = asked(scaled(gpuBudget=12), prefill=4, decode=6)
    assert 2 * sum(replicas for replicas, _ in targets.values()) <= 12
    assert {limited_by for _, limited_by in targets.values()} == {"gpuBudget"}
    assert asked(scaled(gpuBudget=12), prefill=2, decode=4) == {"prefill": (2, ""), "decode": (4, "")}


def test_a_budget_that_is_too_small_for_the_least_is_an_error_of_the_spec():
    with pytest.raises(SpecError, match=r"gpuBudget: 4 is not enough: the least pods need 6 GPUs"):
        asked(scaled(gpuBudget=4))


def test_a_suspended_service_wants_none():
    assert asked({"decode": {"replicas": 3}, "suspend": True}) == {"both": (0, "suspend")}
