"""What is done, and what is left alone, in a whole small cluster."""

from __future__ import annotations

import dataclasses
import random

import pytest

from penstock_operator import kinds, names
from penstock_operator.plan.actions import Annotate, Apply, Create, Delete, Drain, SetReplicas
from support.small_cluster import SmallCluster
from support.small_operator import DEFAULTS, SmallOperator

PAIR = {"prefill": {"replicas": 1}, "decode": {"replicas": 3}, "connector": {"type": "nixl"}}
ONE = {"decode": {"replicas": 2}}


@pytest.fixture
def cluster() -> SmallCluster:
    return SmallCluster(random.Random(1))


def writes(operator: SmallOperator) -> list[object]:
    """What a turn would do that changes pods."""
    _, _, planned = operator.look()
    return [action for action in planned.actions if not isinstance(action, Apply)]


def name_of(action: Create | Apply) -> tuple[str, str]:
    return action.manifest["kind"], action.manifest["metadata"]["name"]


def test_everything_is_made_at_once_and_pods_after_what_they_need(cluster):
    operator = SmallOperator(cluster, PAIR)
    _, _, planned = operator.look()
    made = [name_of(action) for action in planned.actions if isinstance(action, Create | Apply)]
    deployments = [index for index, (kind, _) in enumerate(made) if kind == "Deployment"]
    assert len(deployments) == 3
    assert deployments == sorted(range(len(made)))[-3:]


def test_the_number_of_pods_is_in_no_apply(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    _, _, planned = operator.look()
    applied = [action.manifest for action in planned.actions if isinstance(action, Apply)]
    assert {manifest["kind"] for manifest in applied} >= {"RoleScaler", "Service"}
    assert "Deployment" not in {manifest["kind"] for manifest in applied}
    assert not any("replicas" in manifest.get("spec", {}) for manifest in applied)


def test_a_settled_service_gets_nothing_but_applies_and_those_name_the_object_they_mean(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    _, observed, planned = operator.look()
    assert writes(operator) == []
    assert planned.wake_after is None
    there = {(action.manifest["kind"], action.uid is None) for action in planned.actions if isinstance(action, Apply)}
    assert {kind for kind, is_new in there if is_new} == set()
    assert observed.foreign == ()


def test_a_new_operator_with_other_defaults_leaves_pods_and_routers_alone(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    uids = {name: cluster.objects[kinds.POD, name]["metadata"]["uid"] for name in cluster.pods}
    defaults = dataclasses.replace(DEFAULTS, runtime_image="runtime:2")
    newer = SmallOperator(cluster, operator.spec, defaults=defaults, status=operator.status)
    assert writes(newer) == []
    newer.run(20)
    assert {name: cluster.objects[kinds.POD, name]["metadata"]["uid"] for name in cluster.pods} == uids


def test_a_foreign_object_is_neither_applied_nor_created_over_and_is_named(cluster):
    theirs = {"metadata": {"name": "chat-prefill", "uid": "x", "generation": 1}, "spec": {}}
    cluster.objects[kinds.SERVICE, "chat-prefill"] = theirs
    router = {"metadata": {"name": "chat-router", "uid": "y", "generation": 1}, "spec": {"replicas": 1}}
    cluster.objects[kinds.DEPLOYMENT, "chat-router"] = router
    operator = SmallOperator(cluster, PAIR)
    operator.run(10)
    assert cluster.objects[kinds.SERVICE, "chat-prefill"] is theirs
    assert cluster.objects[kinds.DEPLOYMENT, "chat-router"]["spec"] == {"replicas": 1}
    assert operator.condition("Stalled")["reason"] == "ForeignObject"
    assert "chat-" in operator.condition("Stalled")["message"]


def test_what_is_no_longer_asked_for_is_deleted_after_the_rollout(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    assert (kinds.ROLE_SCALER, "chat-prefill") in cluster.objects
    operator.spec = {"decode": {"replicas": 2}, "router": {"enabled": False}}
    operator.generation += 1
    operator.turn()
    assert (kinds.SERVICE, "chat-decode") in cluster.objects
    operator.settle()
    left = {(kind.kind, name) for kind, name in cluster.objects if kind != kinds.POD}
    assert not {name for _, name in left if "prefill" in name or "decode" in name or "router" in name}
    assert {"Service", "Deployment", "RoleScaler"} <= {kind for kind, _ in left}


def test_clients_stay_with_the_old_pods_while_a_service_without_router_changes_its_shape(cluster):
    operator = SmallOperator(cluster, {**PAIR, "router": {"enabled": False}})
    operator.settle()
    operator.spec = {"decode": {"replicas": 2}, "router": {"enabled": False}}
    operator.generation += 1
    while not cluster.of("both") or not all(pod.is_ready for pod in cluster.of("both")):
        operator.turn()
        cluster.tick()
        assert all(pod.is_ready for pod in cluster.of("decode") + cluster.of("prefill"))
        assert cluster.objects[kinds.SERVICE, "chat"]["spec"]["selector"][names.ROLE] == "decode"
    operator.settle()
    assert cluster.objects[kinds.SERVICE, "chat"]["spec"]["selector"][names.ROLE] == "both"
    assert len(cluster.of("both")) == 2


def test_scaling_a_role_scaler_sticks(cluster):
    operator = SmallOperator(cluster, {"decode": {}})
    operator.settle()
    operator.scale("both", 3)
    operator.settle()
    assert len(cluster.of("both")) == 3
    operator.run(10)
    assert cluster.objects[kinds.ROLE_SCALER, "chat-both"]["spec"]["replicas"] == 3


def test_a_suspended_service_runs_nothing_and_comes_back_with_its_number(cluster):
    operator = SmallOperator(cluster, {"decode": {}})
    operator.settle()
    operator.scale("both", 3)
    operator.settle()
    operator.change(suspend=True)
    operator.settle()
    assert cluster.pods == {}
    assert operator.condition("Ready")["reason"] == "Suspended"
    assert (kinds.SERVICE, "chat") in cluster.objects
    operator.change(suspend=False)
    operator.settle()
    assert len(cluster.of("both")) == 3


def test_a_paused_rollout_begins_nothing_and_goes_on_when_it_may(cluster):
    operator = SmallOperator(cluster, ONE)
    operator.settle()
    before = cluster.wanted()
    operator.change(rollout={"paused": True, "restartedAt": "1"})
    operator.run(10)
    assert cluster.wanted() == before
    assert operator.condition("Reconciling")["reason"] == "RolloutPaused"
    operator.change(rollout={"paused": False, "restartedAt": "1"})
    operator.settle()
    assert cluster.wanted().keys() != before.keys()


def test_a_paused_service_that_is_new_is_made_all_the_same(cluster):
    operator = SmallOperator(cluster, {**ONE, "rollout": {"paused": True}})
    operator.settle()
    assert len(cluster.of("both")) == 2


def test_surge_that_fits_nowhere_waits_while_the_old_revision_serves(cluster):
    cluster.capacity = 2
    operator = SmallOperator(cluster, ONE)
    operator.settle()
    old = cluster.of("both")
    operator.change(rollout={"restartedAt": "1"})
    operator.run(60)
    assert all(pod.is_ready for pod in old)
    assert operator.condition("Reconciling")["reason"] == "WaitingForCapacity"
    assert operator.condition("Ready")["status"] == "True"
    cluster.capacity = 3
    operator.settle()


def test_where_pods_may_be_missing_the_rollout_goes_on_without_room(cluster):
    cluster.capacity = 2
    operator = SmallOperator(cluster, {**ONE, "rollout": {"maxUnavailable": 1, "maxSurge": 1}})
    operator.settle()
    operator.change(rollout={"maxUnavailable": 1, "maxSurge": 1, "restartedAt": "1"})
    for _ in range(200):
        planned = operator.turn()
        is_moving = any(isinstance(action, Drain | SetReplicas) for action in planned.actions)
        assert not (is_moving and planned.waiting_for), "what moves does not wait"
        cluster.tick()
    assert operator.is_done()


def test_surge_beyond_the_budget_waits_and_says_so(cluster):
    scaling = {"mode": "Builtin", "decode": {"min": 2, "max": 2}, "gpuBudget": 2}
    spec = {"decode": {"resources": {"limits": {"nvidia.com/gpu": 1}}}, "autoscaling": scaling}
    operator = SmallOperator(cluster, spec)
    operator.settle()
    operator.change(rollout={"restartedAt": "1"})
    operator.run(20)
    assert len(cluster.of("both")) == 2
    assert "GPU budget of 2" in operator.condition("Reconciling")["message"]
    operator.change(rollout={"restartedAt": "1", "maxUnavailable": 1})
    operator.settle()


def test_a_bad_revision_never_takes_the_service_down_and_a_rollback_cleans_up(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    good = operator.look()[0].revision
    cluster.is_bad = lambda revision: revision != good
    operator.change(rollout={"restartedAt": "1"})
    for _ in range(60):
        operator.turn()
        cluster.tick()
        assert sum(pod.is_ready for pod in cluster.of("decode", good)) == 3
        assert sum(pod.is_ready for pod in cluster.of("prefill", good)) == 1
    assert operator.condition("Ready")["status"] == "True"
    assert operator.condition("Reconciling")["reason"] == "RollingOut"
    operator.change(rollout={})
    operator.settle()
    assert {name.rpartition("-")[2] for name in cluster.wanted()} == {good, "router"}


def test_a_broken_service_is_replaced_without_waiting_for_it(cluster):
    cluster.capacity = 2
    cluster.is_bad = lambda revision: True
    operator = SmallOperator(cluster, ONE)
    operator.run(20)
    bad = operator.look()[0].revision
    cluster.is_bad = lambda revision: revision == bad
    operator.change(rollout={"restartedAt": "1"})
    operator.settle()


def test_the_baseline_is_written_before_the_first_pod_is_taken(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    operator.change(rollout={"restartedAt": "1"})
    for _ in range(100):
        actions = writes(operator)
        taken = [action for action in actions if isinstance(action, Annotate | Drain | SetReplicas)]
        if taken:
            break
        operator.turn()
        cluster.tick()
    assert isinstance(taken[0], Annotate)
    assert taken[0].annotations == {names.BASELINE: "3"}


def test_an_old_revision_goes_only_when_all_its_roles_are_empty(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    operator.change(rollout={"restartedAt": "1"})
    deleted = []
    for _ in range(300):
        actions = writes(operator)
        deleted += [action.name for action in actions if isinstance(action, Delete)]
        if deleted:
            break
        operator.turn()
        cluster.tick()
    assert len(deleted) == 2


def test_a_job_that_exists_is_not_applied_again(cluster):
    source = {"source": "hf://org/name", "cache": {"type": "Shared", "size": "5Gi"}}
    operator = SmallOperator(cluster, {**ONE, "model": source})
    operator.turn()
    assert [kind for kind, _ in cluster.objects if kind == kinds.JOB]
    planned = operator.turn()
    assert "Job" not in {action.manifest["kind"] for action in planned.actions if isinstance(action, Apply)}
    assert operator.condition("ModelReady")["reason"] == "Downloading"


def test_a_pod_that_was_told_to_drain_is_not_counted_as_ready(cluster):
    operator = SmallOperator(cluster, ONE)
    operator.settle()
    name = next(name for name, pod in cluster.pods.items() if pod in cluster.of("both"))
    mark = {names.DRAINED: "2026-01-31T08:00:00Z"}
    cluster.do(Annotate(kind=kinds.POD, name=name, uid="", annotations=mark))
    _, _, planned = operator.look()
    assert planned.rollout.new.sizes["both"].ready == 1


def test_a_pod_that_is_lost_with_its_node_holds_no_rollout_up(cluster):
    operator = SmallOperator(cluster, ONE)
    operator.settle()
    name = next(name for name, pod in cluster.pods.items() if pod in cluster.of("both"))
    cluster.cut_off(name)
    operator.change(rollout={"restartedAt": "1"})
    operator.settle()
    assert name in cluster.pods
