"""Services on a cluster in memory, with the operator's real parts from parsing to status."""

from __future__ import annotations

import random

import pytest

from penstock_operator.errors import ApiError
from penstock_operator.kinds import (
    ALL,
    AUTOSCALER,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    EVENT,
    INFERENCE_SERVICE,
    LEASE,
    POD,
    POD_MONITOR,
    ROLE_SCALER,
    SECRET,
    SERVICE,
)
from support.operator_run import MINIMAL, OperatorRun

NO_CHILDREN = (EVENT, INFERENCE_SERVICE, LEASE, POD)
CHILDREN = tuple(kind for kind in ALL if kind not in NO_CHILDREN)
FREE = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec:
  model: {source: hf://org/model}
  decode: {}
"""
PREFILL_DECODE = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec:
  model: {source: hf://org/model}
  connector: {type: nixl}
  prefill: {replicas: 1}
  decode: {replicas: 2}
"""


@pytest.fixture
def run():
    return OperatorRun()


def counts(run, kind=DEPLOYMENT) -> dict[str, int]:
    """Replicas by role: names have revisions in them."""
    found = {}
    for one in run.api.all(kind):
        role = one["metadata"]["labels"]["app.kubernetes.io/component"]
        found[role] = found.get(role, 0) + one["spec"]["replicas"]
    return found


def uids(run) -> dict[tuple[str, str], str]:
    return {
        (kind.kind, one["metadata"]["name"]): one["metadata"]["uid"]
        for kind in (*CHILDREN, POD)
        for one in run.api.all(kind)
    }


def test_a_service_becomes_ready(run):
    key = run.create(PREFILL_DECODE)
    run.work()
    assert run.condition(key, "Ready")["status"] == "False"
    assert run.condition(key, "Reconciling")["status"] == "True"
    run.settle()
    assert run.condition(key, "Ready")["status"] == "True"
    assert run.condition(key, "Reconciling")["status"] == "False"
    assert counts(run) == {"prefill": 1, "decode": 2, "router": 1}
    assert run.status(key)["observedGeneration"] == 1
    assert "Serving" in dict(run.events())


def test_every_child_goes_with_its_service(run):
    key = run.create(PREFILL_DECODE)
    run.settle()
    owner = run.api.find(INFERENCE_SERVICE, "chat")["metadata"]["uid"]
    for kind in CHILDREN:
        for child in run.api.all(kind):
            (reference,) = child["metadata"]["ownerReferences"]
            assert (reference["uid"], reference["controller"]) == (owner, True)
            assert "blockOwnerDeletion" not in reference
            assert "finalizers" not in child["metadata"]
    run.api.remove(INFERENCE_SERVICE, "default", "chat")
    run.writes()
    run.settle()
    assert uids(run) == {}
    assert run.writes() == []
    assert run.store.services() == []
    assert run.store.children(key) == {}


def test_what_is_as_it_should_be_costs_no_call(run):
    key = run.create(PREFILL_DECODE)
    run.settle()
    run.api.calls.clear()
    for _ in range(3):
        run.queue.add(key)
        run.work()
        run.now += 60
    assert run.api.calls == []


def test_an_operator_that_begins_anew_changes_nothing(run):
    key = run.create(PREFILL_DECODE)
    run.settle()
    before, versions = uids(run), [one["metadata"]["resourceVersion"] for one in run.api.all(DEPLOYMENT)]
    run.writes()
    run.restart()
    run.queue.add(key)
    run.settle()
    assert uids(run) == before
    assert [one["metadata"]["resourceVersion"] for one in run.api.all(DEPLOYMENT)] == versions
    assert {verb for verb, _, _ in run.writes()} <= {"apply"}


def test_changes_by_others_are_put_right_and_what_they_delete_comes_back(run):
    run.create()
    run.settle()
    budget = run.api.all(DISRUPTION_BUDGET)[0]["metadata"]["name"]
    run.api.update(DISRUPTION_BUDGET, "default", budget, {"spec": {"maxUnavailable": 77}})
    run.api.remove(SERVICE, "default", "chat")
    run.settle(2)
    assert run.api.find(DISRUPTION_BUDGET, budget)["spec"]["maxUnavailable"] != 77
    assert run.api.find(SERVICE, "chat") is not None


def test_a_foreign_object_under_one_of_our_names_is_left_alone_and_named(run):
    foreign = {"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": "web"}}}
    run.api.post({**foreign, "metadata": {"name": "chat", "namespace": "default"}})
    key = run.create()
    run.settle()
    there = run.api.find(SERVICE, "chat")
    assert there["spec"] == {"selector": {"app": "web"}}
    assert "labels" not in there["metadata"]
    stalled = run.condition(key, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "ForeignObject")
    assert "Service chat exists" in stalled["message"]
    assert counts(run) == {"both": 2, "router": 1}, "the other children are not kept from being"
    run.api.remove(SERVICE, "default", "chat")
    run.settle(steps=12, seconds=5.0)
    assert run.condition(key, "Stalled")["status"] == "False"
    assert run.api.find(SERVICE, "chat")["metadata"]["labels"]["penstock.dev/service"] == "chat"


def test_who_scales_the_role_scaler_is_heard_and_never_overwritten(run):
    key = run.create(FREE)
    run.settle()
    assert counts(run)["both"] == 1
    run.api.scale(ROLE_SCALER, "default", "chat-both", 3)
    run.settle()
    assert counts(run)["both"] == 3
    run.api.update(ROLE_SCALER, "default", "chat-both", {"metadata": {"labels": {"penstock.dev/role": None}}})
    run.settle(2)
    scaler = run.api.find(ROLE_SCALER, "chat-both")
    assert (scaler["spec"]["replicas"], scaler["metadata"]["labels"]["penstock.dev/role"]) == (3, "both")
    assert scaler["status"]["replicas"] == 3
    assert run.condition(key, "Ready")["status"] == "True"


def test_a_lost_role_scaler_shrinks_nothing(run):
    run.create(FREE)
    run.settle()
    run.api.scale(ROLE_SCALER, "default", "chat-both", 3)
    run.settle()
    before = uids(run)
    run.api.remove(ROLE_SCALER, "default", "chat-both")
    run.settle()
    assert run.api.find(ROLE_SCALER, "chat-both")["spec"]["replicas"] == 3
    pods = {name for name in before if name[0] == "Pod"}
    assert pods == {name for name in uids(run) if name[0] == "Pod"}


@pytest.mark.parametrize(("kind", "name"), [(SERVICE, "chat"), (ROLE_SCALER, "chat-both"), (DEPLOYMENT, "chat-router")])
def test_a_child_that_lost_the_label_of_watches_is_found_and_gets_it_back(run, kind, name):
    key = run.create(FREE)
    run.settle()
    before = uids(run)
    for _ in range(2):
        run.api.update(kind, "default", name, {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}})
        run.settle()
        assert run.api.find(kind, name)["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "penstock-operator"
    assert uids(run) == before
    assert run.condition(key, "Ready")["status"] == "True"


def test_a_changed_model_replaces_all_pods_by_a_new_revision(run):
    key = run.create(PREFILL_DECODE)
    run.settle()
    old = {name for name in uids(run) if name[0] == "Pod" and "router" not in name[1]}
    run.edit(key, {"model": {"source": "hf://org/other"}})
    run.settle(40)
    new = {name for name in uids(run) if name[0] == "Pod" and "router" not in name[1]}
    assert not old & new
    assert counts(run) == {"prefill": 1, "decode": 2, "router": 1}
    assert run.condition(key, "Ready")["status"] == "True"
    assert run.status(key)["observedGeneration"] == 2


def test_a_spec_that_no_schema_can_refuse_is_told_and_what_runs_goes_on(run):
    key = run.create(FREE)
    run.settle()
    before = uids(run)
    schedule = {"name": "night", "start": "0 20 * * *", "duration": "8h", "timeZone": "Mars/Olympus"}
    run.edit(key, {"autoscaling": {"mode": "Builtin", "schedules": [schedule]}})
    run.settle()
    stalled = run.condition(key, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert "Mars/Olympus" in stalled["message"]
    assert uids(run) == before
    run.edit(key, {"autoscaling": None})
    run.settle()
    assert run.condition(key, "Stalled")["status"] == "False"


def test_without_the_lease_nothing_is_written_and_nothing_is_lost(run):
    run.may_write = False
    key = run.create()
    run.settle()
    assert run.writes() == []
    run.may_write = True
    run.queue.add(key)  # as whoever takes the Lease does
    run.settle()
    assert run.condition(key, "Ready")["status"] == "True"


def test_a_lease_that_is_lost_in_the_middle_stops_the_next_write(run):
    key = run.create()
    taken = run.queue.take(0.0)
    run.may_write = True
    run.api.refuse = lambda verb, kind, name: setattr(run, "may_write", kind != SECRET) if verb == "apply" else None
    run.workers.look(taken)
    run.api.refuse = lambda verb, kind, name: None
    assert [kind for _, kind, _ in run.writes()] == ["ServiceAccount", "Secret"]
    run.may_write = True
    run.queue.add(key)
    run.settle()
    assert run.condition(key, "Ready")["status"] == "True"


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
def test_an_api_server_that_fails_for_a_while_is_asked_again(run, status):
    key = run.create()
    times = iter(range(4))

    def refuse(verb, kind, name):
        is_refused = kind == DEPLOYMENT and verb == "create" and next(times, None) is not None
        return ApiError(status, "not now") if is_refused else None

    run.api.refuse = refuse
    run.settle()
    assert run.condition(key, "Ready")["status"] == "True"


def test_a_child_that_is_refused_does_not_keep_the_others_from_being_and_is_told(run):
    def refuse(verb, kind, name):
        return ApiError(422, "budgets are forbidden here") if kind == DISRUPTION_BUDGET and verb == "apply" else None

    run.api.refuse = refuse
    key = run.create()
    run.settle()
    assert counts(run) == {"both": 2, "router": 1}
    messages = " ".join(one["message"] for one in run.status(key)["conditions"])
    assert "budgets are forbidden here" in messages


def test_optional_kinds_are_made_where_the_cluster_has_them():
    with_monitors, without = OperatorRun(optional=(POD_MONITOR,)), OperatorRun()
    for run in (with_monitors, without):
        key = run.create()
        run.settle()
        assert run.condition(key, "Ready")["status"] == "True"
    assert len(with_monitors.api.all(POD_MONITOR)) >= 1
    assert without.api.all(POD_MONITOR) == []


def end_state(run) -> dict:
    """What is there in the end, but for what differs between any two runs."""
    names = sorted(name for name in uids(run) if name[0] not in ("Pod", "Secret"))
    conditions = {one["type"]: one["status"] for one in run.api.all(INFERENCE_SERVICE)[0]["status"]["conditions"]}
    return {"names": names, "counts": counts(run), "pods": len(run.api.all(POD)), "conditions": conditions}


class Killed(BaseException):
    pass


def test_an_autoscaler_that_nobody_asks_for_any_more_goes_even_while_pods_are_not_ready(run):
    key = run.create(MINIMAL.replace("replicas: 2", ""))
    run.edit(key, {"autoscaling": {"mode": "HPA", "decode": {"max": 3}}})
    run.work()
    assert [one["metadata"]["name"] for one in run.api.all(AUTOSCALER)] == ["chat-both"]
    run.edit(key, {"autoscaling": {"mode": "Builtin"}})
    run.work()
    assert run.api.all(AUTOSCALER) == []


def test_an_operator_killed_at_any_write_of_a_rollout_ends_at_the_same_state():
    def story(kills: random.Random | None) -> dict:
        run = OperatorRun()
        key = run.create(PREFILL_DECODE)
        run.settle()
        run.edit(key, {"model": {"source": "hf://org/other"}})

        def refuse(verb, kind, name):
            if kills is not None and verb not in ("get", "list") and kills.random() < 0.15:
                raise Killed

        run.api.refuse = refuse
        for _ in range(60):
            try:
                run.work()
            except Killed:
                run.restart()
                run.queue.add(key)
            run.cluster.step()
            run.now += 3.0
        run.api.refuse = lambda verb, kind, name: None
        run.settle()
        return end_state(run)

    expected = story(None)
    for seed in range(4):
        assert story(random.Random(seed)) == expected, seed
