"""What the status says, in a small cluster: conditions as GitOps tools and people read them."""

from __future__ import annotations

import random

import msgspec
import pytest

from penstock_operator import kinds
from penstock_operator.api.status import InferenceServiceStatus, RoleScalerStatus
from penstock_operator.desired.build import build_children
from penstock_operator.errors import ApiError, ForeignObject, SpecError
from penstock_operator.observed.observe import observe
from penstock_operator.plan.planner import plan
from penstock_operator.status.build import build_refused_status, build_scaler_status, build_status
from support.small_cluster import SmallCluster
from support.small_operator import SmallOperator, build_raw

PAIR = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}, "connector": {"type": "nixl"}}


@pytest.fixture
def cluster() -> SmallCluster:
    return SmallCluster(random.Random(3))


def values(status) -> dict[str, str]:
    return {one["type"]: one["status"] for one in status["conditions"]}


def kstatus(status, generation: int) -> str:
    """What Flux, kpt and Helm make of it: the rules of kstatus for objects that are not Kubernetes' own."""
    if status.get("observedGeneration") != generation:
        return "InProgress"
    found = values(status)
    if found.get("Reconciling") == "True":
        return "InProgress"
    if found.get("Stalled") == "True":
        return "Failed"
    return "Current" if found.get("Ready") == "True" else "InProgress"


def test_from_the_first_write_to_the_end_kstatus_goes_from_in_progress_to_current(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.turn()
    assert kstatus(operator.status, 1) == "InProgress"
    assert operator.status["summary"] == "0/1P 0/2D"
    operator.settle()
    assert kstatus(operator.status, 1) == "Current"
    assert values(operator.status) == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "ModelReady": "True",
        "PrefillReady": "True",
        "DecodeReady": "True",
        "RouterReady": "True",
        "ScalingActive": "False",
    }
    assert operator.status["summary"] == "1/1P 2/2D"
    assert operator.status["url"] == "http://chat.default.svc/v1"
    assert operator.status["roles"]["decode"] == {
        "desired": 2,
        "ready": 2,
        "replicas": 2,
        "updated": 2,
        "revision": operator.status["revision"],
    }


def test_the_status_is_what_its_schema_says(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    msgspec.convert(msgspec.json.decode(msgspec.json.encode(operator.status)), InferenceServiceStatus)
    _, observed, planned = operator.look()
    scaler = build_scaler_status(operator.service, "decode", observed, planned)
    msgspec.convert(msgspec.json.decode(msgspec.json.encode(scaler)), RoleScalerStatus)


def test_a_settled_status_does_not_change(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    before = operator.status
    operator.run(5)
    assert operator.status == before


def test_reconciling_and_stalled_are_never_both_true(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    good = operator.status["revision"]
    cluster.is_bad = lambda revision: revision != good
    for restart in ("1", "2"):
        operator.change(rollout={"restartedAt": restart})
        for _ in range(40):
            operator.turn()
            cluster.tick()
            found = values(operator.status)
            assert (found["Reconciling"], found["Stalled"]) != ("True", "True")


def test_a_condition_keeps_its_time_while_it_does_not_turn(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    since = operator.condition("Ready")["lastTransitionTime"]
    operator.change(decode={"replicas": 4})
    operator.settle()
    assert operator.condition("Ready")["lastTransitionTime"] == since
    assert operator.condition("Ready")["observedGeneration"] == 2


def test_a_service_that_serves_is_ready_while_it_grows_and_while_it_rolls(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    operator.change(decode={"replicas": 5}, rollout={"restartedAt": "1"})
    for _ in range(300):
        operator.turn()
        cluster.tick()
        assert operator.condition("Ready")["status"] == "True", operator.condition("Ready")
        if operator.is_done():
            break
    assert operator.status["summary"] == "1/1P 5/5D"


def test_one_role_without_a_pod_is_not_ready_and_its_pods_root_cause_is_the_message(cluster):
    cluster.capacity = 2
    operator = SmallOperator(cluster, {**PAIR, "prefill": {"replicas": 2}})
    operator.run(30)
    waiting = next(role for role in ("prefill", "decode") if not all(pod.is_ready for pod in cluster.of(role)))
    condition = operator.condition(f"{waiting.title()}Ready")
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    assert "insufficient nvidia.com/gpu" in condition["message"]
    assert "insufficient nvidia.com/gpu" in operator.condition("Ready")["message"]


def test_children_of_a_namesake_are_waited_for_and_not_complained_about(cluster):
    SmallOperator(cluster, PAIR).settle()
    operator = SmallOperator(cluster, PAIR, uid="u-2")
    operator.turn()
    assert kstatus(operator.status, 1) == "InProgress"
    cluster.collect("u-1")
    operator.settle()
    assert kstatus(operator.status, 1) == "Current"


def test_zero_pods_on_purpose_are_ready(cluster):
    operator = SmallOperator(cluster, {"decode": {}})
    operator.settle()
    operator.scale("both", 0)
    operator.settle()
    assert operator.condition("Ready")["reason"] == "ScaledToZero"
    assert kstatus(operator.status, 1) == "Current"
    assert operator.condition("ModelReady")["status"] == "Unknown"


def test_zero_pods_are_not_ready_without_a_router_that_holds_requests(cluster):
    operator = SmallOperator(cluster, {"decode": {}})
    operator.settle()
    operator.scale("both", 0)
    operator.settle()
    router = next(name for name, pod in cluster.pods.items() if pod.deployment == "chat-router")
    cluster.kill(router)
    cluster.objects[kinds.DEPLOYMENT, "chat-router"]["status"]["availableReplicas"] = 0
    operator.turn()
    assert (operator.condition("Ready")["status"], operator.condition("Ready")["reason"]) == ("False", "RouterNotReady")
    assert operator.condition("RouterReady")["status"] == "False"


def test_a_spec_that_cannot_be_stalls_and_what_runs_is_still_told(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    _, observed, _ = operator.look()
    problem = SpecError("InvalidSpec", "spec.model.source: nothing is there")
    status = build_status(operator.service, None, observed, None, problem, cluster.now)
    assert values(status)["Ready"] == "True"
    assert kstatus(status, 1) == "Failed"
    assert "nothing is there" in next(one["message"] for one in status["conditions"] if one["type"] == "Ready")
    assert status["roles"]["decode"]["desired"] == 2


def test_a_spec_that_cannot_be_from_the_beginning_is_not_ready(cluster):
    operator = SmallOperator(cluster, PAIR)
    _, observed, _ = operator.look()
    problem = SpecError("InvalidSpec", "spec.model.source: nothing is there")
    status = build_status(operator.service, None, observed, None, problem, cluster.now)
    assert (values(status)["Ready"], values(status)["Stalled"]) == ("False", "True")


@pytest.mark.parametrize(
    ("problem", "state", "reason"),
    [
        (ForeignObject("Service", "chat"), "Failed", "ForeignObject"),
        (ApiError(403, "forbidden", reason="Forbidden"), "Failed", "Forbidden"),
        (ApiError(422, "spec.template: invalid", reason="Invalid"), "Failed", "Invalid"),
        (ApiError(0, "no answer"), "InProgress", "Retrying"),
    ],
)
def test_what_the_api_server_does_not_take(cluster, problem, state, reason):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    children, observed, planned = operator.look()
    status = build_status(operator.service, children, observed, planned, problem, cluster.now)
    assert kstatus(status, 1) == state
    assert reason in {one["reason"] for one in status["conditions"] if one["type"] in ("Stalled", "Reconciling")}


def test_a_spec_that_nobody_can_read_keeps_what_was_said_before(cluster):
    operator = SmallOperator(cluster, PAIR)
    operator.settle()
    raw = {**build_raw(PAIR, generation=2), "status": operator.status}
    status = build_refused_status(raw, SpecError("InvalidSpec", "spec.decode: is missing"), cluster.now)
    assert kstatus(status, 2) == "Failed"
    assert values(status)["Ready"] == "True"
    assert status["roles"] == operator.status["roles"]
    fresh = build_refused_status(build_raw(PAIR), SpecError("InvalidSpec", "spec.decode: is missing"), cluster.now)
    assert values(fresh) == {"Ready": "False", "Reconciling": "False", "Stalled": "True"}


def test_trouble_of_a_revision_that_is_being_replaced_stalls_nothing(cluster):
    operator = SmallOperator(cluster, {"decode": {"replicas": 1}})
    operator.settle()
    name = next(name for name, pod in cluster.pods.items() if pod in cluster.of("both"))
    view = cluster.view()
    image = {"image": "x:1", "state": {"waiting": {"reason": "InvalidImageName"}}}
    pod = view[kinds.POD, name]
    view[kinds.POD, name] = {**pod, "status": {**pod["status"], "containerStatuses": [image]}}

    def told(service):
        seen = observe(service, view, {}, cluster.now)
        children = build_children(service, operator.defaults)
        return build_status(service, children, seen, plan(service, children, seen), None, cluster.now)

    assert values(told(operator.service))["Stalled"] == "True"
    operator.change(rollout={"restartedAt": "1"})
    assert values(told(operator.service))["Stalled"] == "False"


def test_a_role_scaler_counts_pods_that_take_requests_of_all_revisions(cluster):
    operator = SmallOperator(cluster, {"decode": {}})
    operator.settle()
    operator.scale("both", 3)
    operator.settle()
    operator.change(rollout={"restartedAt": "1"})
    for _ in range(15):
        operator.turn()
        cluster.tick()
    _, observed, planned = operator.look()
    status = build_scaler_status(operator.service, "both", observed, planned)
    assert status["replicas"] == sum(pod.is_serving for pod in observed.pods if pod.role == "both") >= 3
    assert status["selector"] == "penstock.dev/service=chat,penstock.dev/role=both"
    assert status["desired"] == 3


def test_what_limits_a_request_is_said(cluster):
    operator = SmallOperator(cluster, {"decode": {}, "autoscaling": {"mode": "HPA", "decode": {"min": 1, "max": 2}}})
    operator.settle()
    operator.scale("both", 9)
    operator.settle()
    condition = operator.condition("ScalingActive")
    assert (condition["status"], condition["reason"]) == ("True", "Limited")
    assert condition["message"] == "both is kept at 2 by max"


def test_somebody_elses_autoscaler_pauses_ours_and_is_named(cluster):
    operator = SmallOperator(cluster, {"decode": {}, "autoscaling": {"mode": "Builtin", "decode": {"max": 4}}})
    operator.settle()
    spec = {"scaleTargetRef": {"kind": "RoleScaler", "name": "chat-both"}}
    theirs = {"kind": "HorizontalPodAutoscaler", "metadata": {"name": "mine", "generation": 1}, "spec": spec}
    cluster.objects[kinds.AUTOSCALER, "mine"] = theirs
    operator.turn()
    assert operator.condition("ScalingActive")["reason"] == "OtherWriter"
    assert "HorizontalPodAutoscaler mine" in operator.condition("ScalingActive")["message"]
    assert operator.condition("Stalled")["status"] == "False"


def test_pods_that_drain_are_listed(cluster):
    operator = SmallOperator(cluster, {"decode": {"replicas": 3}})
    operator.settle()
    operator.change(decode={"replicas": 1})
    operator.turn()
    operator.turn()
    assert len(operator.status["draining"]) == 2
    assert {pod["pod"] for pod in operator.status["draining"]} <= set(cluster.pods)
    operator.settle()
    assert "draining" not in operator.status
