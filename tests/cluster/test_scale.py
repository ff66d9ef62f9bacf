"""Many services, an operator that is started again, and an API server that is away: real ones, on simulated nodes.

A thousand services, and five minutes without an API server: `bench/operator_scale.py`.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.api_server import ApiServer
from support.kube_cluster import Cluster, wait_until
from support.operator_program import OperatorProgram, install_account
from support.simulated_nodes import on_simulated_nodes, simulated_nodes

CLASS, NUM_SERVICES = "scale", 12
MOST_CPU = 0.25  # seconds for each service, from nothing to Ready; twice what it took
BACK_SECONDS = 30.0  # to converge, once the API server is back
OTHERS_SECONDS = 90.0  # more, for controllers that wait longer and longer between attempts to reach one that is gone


class Site:
    """Services in one namespace, and their operator."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self._folder, self.namespace = cluster, folder, f"scale-{uuid.uuid4().hex[:6]}"
        self._system, self._kubeconfig = install_account(cluster, CLASS, folder)
        cluster.kubectl("create", "namespace", self.namespace)
        self.start()

    def start(self) -> None:
        self.operator = OperatorProgram(self._kubeconfig, self._system, CLASS, self._folder)

    def manifest(self, name: str, replicas: int) -> dict[str, Any]:
        spec = {"model": {"source": "hf://org/model"}, "decode": {"replicas": replicas}}
        metadata = {"name": name, "namespace": self.namespace, "annotations": {"penstock.dev/operator-class": CLASS}}
        whole = {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata}
        return {**whole, "spec": on_simulated_nodes(spec)}

    def are_ready(self) -> bool:
        table = self.cluster.kubectl("get", "inferenceservices", "-n", self.namespace, "--no-headers")
        return table.split().count("True") == len(table.splitlines())

    def asked(self, name: str) -> int:
        return sum(one["spec"]["replicas"] for one in self._deployments(name))

    def ready(self, name: str) -> int:
        return sum(one["status"].get("readyReplicas", 0) for one in self._deployments(name))

    def _deployments(self, name: str) -> list[dict[str, Any]]:
        selector = ("-l", f"penstock.dev/service={name},app.kubernetes.io/component=both")
        return self.cluster.items("deployments", self.namespace, *selector)

    def is_quiet(self) -> bool:
        before = self.writes()
        time.sleep(3)
        return self.writes() == before

    def pods(self) -> set[str]:
        return {one["metadata"]["uid"] for one in self.cluster.items("pods", self.namespace)}

    def writes(self) -> float:
        return self.operator.calls("apply", "create", "patch", "scale", "delete")


@pytest.fixture(scope="module")
def site(cluster, definitions, tmp_path_factory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with simulated_nodes(cluster, folder):
        site = Site(cluster, folder)
        cluster.apply(*(site.manifest(f"s{number}", 1) for number in range(NUM_SERVICES)))
        wait_until(site.are_ready, 120, site.operator.log.read_text)
        wait_until(site.is_quiet, 60, site.operator.log.read_text)
        yield site
        site.operator.stop()
        cluster.kubectl("delete", "namespace", site.namespace, "--wait=false")


@pytest.fixture
def api_server(cluster) -> ApiServer:
    if cluster.cut_off is None:
        pytest.skip("only the API server of a cluster of our own is stopped")
    return ApiServer(cluster.kubeconfig.parent)


def test_a_service_costs_little_and_none_when_nothing_happens(site):
    assert site.operator.cpu_seconds < 2 + MOST_CPU * NUM_SERVICES
    before, writes = site.operator.cpu_seconds, site.writes()
    time.sleep(8)
    assert site.writes() == writes
    assert site.operator.cpu_seconds - before < 0.8, "10 % of a core, while nothing happens"


def test_an_operator_that_starts_again_writes_nothing_but_the_secrets_that_it_may_not_read(site):
    assert site.operator.stop() == 0
    site.start()
    wait_until(lambda: site.operator.said("lease.taken"), 30, site.operator.log.read_text)
    looks = lambda: sum(site.operator.figures("penstock_operator_reconciles_total").values())  # noqa: E731
    wait_until(lambda: looks() >= NUM_SERVICES, 30, site.operator.log.read_text)
    time.sleep(2)
    assert site.writes() == NUM_SERVICES
    assert site.are_ready()


def test_what_somebody_changed_while_no_operator_ran_is_put_right(site):
    assert site.operator.stop() == 0
    of = ("-n", site.namespace)
    site.cluster.kubectl("patch", "service/s0", *of, "--type=merge", "-p", '{"spec": {"selector": {"more": "x"}}}')
    site.cluster.kubectl("label", "poddisruptionbudget/s1-both", *of, "app.kubernetes.io/name-")

    def is_right() -> bool:
        service = site.cluster.get("service", "s0", site.namespace)
        budget = site.cluster.get("poddisruptionbudget", "s1-both", site.namespace)
        return "more" not in service["spec"]["selector"] and "app.kubernetes.io/name" in budget["metadata"]["labels"]

    assert not is_right()
    site.start()
    wait_until(is_right, 30, site.operator.log.read_text)


@pytest.mark.parametrize(("how", "seconds", "replicas"), [("stopped", 40.0, 2), ("gone", 10.0, 3)])
def test_an_api_server_that_is_away_harms_nothing_and_what_changes_then_is_done_soon_after(
    site, api_server, how, seconds, replicas
):
    pods, begun = site.pods(), time.monotonic()
    changing = threading.Thread(target=apply_as_soon_as_possible, args=(site, site.manifest("s1", replicas)))
    with getattr(api_server, how)():
        changing.start()
        while time.monotonic() - begun < seconds:
            assert site.operator.is_alive(), site.operator.log.read_text()
            time.sleep(1)
    back = time.monotonic()
    changing.join()
    told = site.operator.log.read_text
    wait_until(lambda: site.asked("s1") == replicas, BACK_SECONDS - (time.monotonic() - back), told)
    left = BACK_SECONDS + (0 if how == "stopped" else OTHERS_SECONDS) - (time.monotonic() - back)
    wait_until(lambda: site.ready("s1") == replicas, left, told)
    assert pods <= site.pods(), "pods were lost"
    assert site.operator.process.poll() is None


def apply_as_soon_as_possible(site: Site, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest)
    while site.cluster.run("kubectl", "apply", "-f", "-", text=text).returncode != 0:
        time.sleep(0.5)
