"""Services whose replicas are groups of pods, on a cluster in memory: LeaderWorkerSets from first pod to last."""

from __future__ import annotations

import threading

import pytest

from penstock_operator import names
from penstock_operator.cluster import resync
from penstock_operator.kinds import (
    DEPLOYMENT,
    INFERENCE_SERVICE,
    LEADER_WORKER_SET,
    OPTIONAL,
    POD,
    ROLE_SCALER,
)
from support.kube_cluster import wait_until
from support.memory_groups import MemoryGroups
from support.operator_run import OperatorRun

PREFIX = "penstock: error: "
TWO_PODS = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: huge}
spec:
  model: {source: hf://org/model}
  engine: {tensorParallel: 8, pipelineParallel: 2}
  decode:
    resources: {limits: {nvidia.com/gpu: 8}}
"""


class GroupsRun(OperatorRun):
    """A cluster that has LeaderWorkerSets, with their controller."""

    def __init__(self) -> None:
        super().__init__(optional=(LEADER_WORKER_SET,))
        self.groups = MemoryGroups(self.api)

    def settle(self, steps: int = 12, seconds: float = 3.0) -> None:
        for _ in range(steps):
            super().settle(1, seconds)
            self.groups.step()
        self.work()

    def scale(self, replicas: int) -> None:
        self.api.update(ROLE_SCALER, "default", "huge-both", {"spec": {"replicas": replicas}})


@pytest.fixture
def run():
    return GroupsRun()


def only(run) -> dict:
    [found] = run.api.all(LEADER_WORKER_SET)
    return found


def test_a_replica_of_sixteen_workers_is_a_group_of_two_pods(run):
    key = run.create(TWO_PODS)
    run.settle()
    found = only(run)
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["leaderWorkerTemplate"]["size"] == 2
    assert [one["metadata"]["name"] for one in run.api.all(DEPLOYMENT)] == ["huge-router"]
    assert len(run.groups.pods(found)) == 2
    assert run.condition(key, "Ready")["status"] == "True"
    assert run.condition(key, "Reconciling")["status"] == "False"
    assert run.status(key)["roles"]["both"] == {
        "desired": 1,
        "ready": 1,
        "replicas": 1,
        "updated": 1,
        "revision": run.status(key)["revision"],
    }


def test_without_the_api_the_condition_says_what_to_install_and_goes_when_it_is_there():
    run = GroupsRun()
    run.api.kinds = tuple(kind for kind in run.api.kinds if kind not in OPTIONAL)
    run.restart()
    key = run.create(TWO_PODS)
    run.settle(3)
    stalled = run.condition(key, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "LeaderWorkerSetMissing")
    assert "a replica spans 2 pods (16 workers, 8 accelerators in each pod)" in stalled["message"]
    assert "install it from https://lws.sigs.k8s.io" in stalled["message"]
    run.api.kinds += (LEADER_WORKER_SET,)
    run.resync.turn()
    run.settle()
    assert run.condition(key, "Stalled")["status"] == "False"
    assert run.condition(key, "Ready")["status"] == "True"
    run.api.kinds = run.api.kinds[:-1]
    run.resync.turn()
    run.work()
    assert run.condition(key, "Stalled")["reason"] == "LeaderWorkerSetMissing"


def test_a_kind_that_goes_while_no_watch_tells_takes_its_objects_along(run):
    key = run.create(TWO_PODS)
    run.settle()
    run.api.watchers.clear()
    run.api.remove(LEADER_WORKER_SET, "default", only(run)["metadata"]["name"])
    run.api.kinds = tuple(kind for kind in run.api.kinds if kind != LEADER_WORKER_SET)
    run.resync.turn()
    assert not [name for name in run.store.children(key) if name[0] == LEADER_WORKER_SET]


def test_a_kind_that_comes_later_is_found_between_two_lists_of_everything(monkeypatch):
    monkeypatch.setattr(resync, "KINDS_SECONDS", 0.02)
    run, stop = GroupsRun(), threading.Event()
    run.api.kinds = tuple(kind for kind in run.api.kinds if kind not in OPTIONAL)
    run.restart()
    thread = threading.Thread(target=run.resync.run, args=(stop,))
    thread.start()
    try:
        run.api.kinds += (LEADER_WORKER_SET,)
        wait_until(lambda: run.resync.apis == {LEADER_WORKER_SET}, 10, "the kind is not found")
        run.api.kinds = run.api.kinds[:-1]
        wait_until(lambda: run.resync.apis == set(), 10, "the kind is not missed")
    finally:
        stop.set()
        run.resync.soon()
        thread.join(10)


def test_a_set_that_no_controller_looks_at_is_said_to_make_no_pods(run):
    run.groups.step = lambda: None
    key = run.create(TWO_PODS)
    run.settle()
    ready = run.condition(key, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "GroupsNotMade")
    assert "does it run?" in ready["message"]


def test_groups_whose_pods_are_refused_say_where_to_look(run):
    key = run.create(TWO_PODS)
    run.settle(2)
    run.groups.step = lambda: None
    name = only(run)["metadata"]["name"]
    for pod in run.groups.pods(only(run)):
        run.api.remove(POD, "default", pod["metadata"]["name"])
    run.api.update(LEADER_WORKER_SET, "default", name, {"status": {"replicas": 0}})
    run.settle(2)
    ready = run.condition(key, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "GroupsNotMade")
    assert f"has made 0 of 1 groups: `kubectl describe statefulset {name}`" in ready["message"]


def test_only_leaders_are_behind_services_and_counted(run):
    run.create(TWO_PODS)
    run.settle()
    leader, worker = run.groups.pods(only(run))
    [scaler] = run.api.all(ROLE_SCALER)
    assert scaler["status"]["replicas"] == 1
    selector = dict(part.split("=") for part in scaler["status"]["selector"].split(","))
    assert selector.items() <= leader["metadata"]["labels"].items()
    assert not selector.items() <= worker["metadata"]["labels"].items()


def test_the_highest_index_is_drained_and_goes(run):
    key = run.create(TWO_PODS)
    run.settle()
    run.scale(3)
    run.settle()
    assert only(run)["spec"]["replicas"] == 3
    assert run.status(key)["roles"]["both"]["ready"] == 3
    run.scale(1)
    run.settle(2)
    name = only(run)["metadata"]["name"]
    assert {drain.pod for drain in run.drains} == {f"{name}-1", f"{name}-2"}
    run.settle(30)
    assert only(run)["spec"]["replicas"] == 1
    assert [one["metadata"]["name"] for one in run.groups.pods(only(run))] == [f"{name}-0", f"{name}-0-1"]
    assert run.condition(key, "Reconciling")["status"] == "False"


def test_a_worker_that_dies_is_the_root_cause(run):
    key = run.create(TWO_PODS)
    run.settle(3)
    name = only(run)["metadata"]["name"]
    said = "penstock: error: --nnodes: 2 asked for, but this version runs one worker per replica; only 1 works"
    run.groups.dead_workers[f"{name}-0-1"] = said
    run.settle(2)
    stalled = run.condition(key, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "ParallelismUnsupported")
    assert stalled["message"] == f"pod {name}-0-1: {said.removeprefix(PREFIX)}"


def test_a_group_that_cannot_start_gives_way_to_a_new_revision(run):
    key = run.create(TWO_PODS)
    run.settle(3)
    old = only(run)["metadata"]["name"]
    run.groups.dead_workers[f"{old}-0-1"] = "penstock: error: --device: no such device"
    run.settle(2)
    assert run.condition(key, "Stalled")["reason"] == "WrongFlag"
    run.edit(key, {"engine": {"args": ["--max-num-seqs=8"]}})
    run.work()
    shrunk = run.api.find(LEADER_WORKER_SET, old)
    assert shrunk["metadata"]["annotations"][names.BASELINE] == "1"
    run.settle(30)
    assert only(run)["metadata"]["name"] != old
    assert run.condition(key, "Ready")["status"] == "True"


def test_one_pod_becomes_two_and_two_become_one_by_a_rollout(run):
    key = run.create(TWO_PODS)
    run.settle()
    run.edit(key, {"engine": {"tensorParallel": 8, "pipelineParallel": 1}})
    run.settle(40)
    assert run.api.all(LEADER_WORKER_SET) == []
    assert len(run.api.all(DEPLOYMENT)) == 2
    assert run.condition(key, "Ready")["status"] == "True"
    run.edit(key, {"engine": {"tensorParallel": 8, "pipelineParallel": 2}})
    run.settle(40)
    assert only(run)["spec"]["replicas"] == 1
    assert [one["metadata"]["name"] for one in run.api.all(DEPLOYMENT)] == ["huge-router"]
    assert run.condition(key, "Reconciling")["status"] == "False"


def test_the_budget_counts_whole_groups(run):
    run.create(TWO_PODS + "  autoscaling: {mode: Builtin, decode: {max: 9}, gpuBudget: 40}\n")
    run.settle()
    run.scale(9)
    run.settle()
    assert only(run)["spec"]["replicas"] == 2, "2 groups of 16 GPUs are 32, 3 would be 48"


def test_a_suspended_service_keeps_no_group(run):
    key = run.create(TWO_PODS)
    run.settle()
    run.api.update(INFERENCE_SERVICE, "default", "huge", {"spec": {"suspend": True}})
    run.settle()
    assert only(run)["spec"]["replicas"] == 0
    assert run.groups.pods(only(run)) == []
    assert run.condition(key, "Ready")["reason"] == "Suspended"


def test_a_deleted_service_takes_its_groups_along(run):
    run.create(TWO_PODS)
    run.settle()
    run.api.remove(INFERENCE_SERVICE, "default", "huge")
    run.settle(3)
    assert run.api.all(LEADER_WORKER_SET) == run.api.all(POD) == []


def test_a_set_of_somebody_else_is_left_alone(run):
    key = run.create(TWO_PODS)
    run.settle()
    name = only(run)["metadata"]["name"]
    run.api.remove(LEADER_WORKER_SET, "default", name)
    labels = names.role_labels("huge", "both")
    metadata = {"name": name, "namespace": "default", "labels": labels}
    run.api.post({"apiVersion": LEADER_WORKER_SET.api_version, "kind": "LeaderWorkerSet", "metadata": metadata})
    before = only(run)
    run.work()
    run.resync.turn()
    run.work()
    assert only(run) == before
    assert run.condition(key, "Stalled")["reason"] == "ForeignObject"
