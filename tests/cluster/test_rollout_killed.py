"""The operator is killed at any moment of a rollout and started again: bounds hold, and the end is always the same.

Real API server and controllers, simulated nodes. For more than the few seeds of each run: PENSTOCK_TEST_SEEDS=100.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes.config
import pytest

from penstock_operator import kinds, names
from penstock_operator.cluster.kube import Kube
from penstock_operator.names import COMPONENT, REVISION
from penstock_operator.names import SERVICE as OF_SERVICE
from support.kube_cluster import Cluster, wait_until
from support.operator_program import OperatorProgram, install_account
from support.simulated_nodes import on_simulated_nodes, simulated_nodes

NUM_SEEDS, AT_ONCE = int(os.environ.get("PENSTOCK_TEST_SEEDS", "3")), 3
BATCHES = [range(first, min(first + AT_ONCE, NUM_SEEDS)) for first in range(0, NUM_SEEDS, AT_ONCE)]
START, END = 1.5, 1.0  # seconds at most, for a simulated pod to be ready and to end
LONGEST = 120.0  # seconds until everything is done, whatever was killed
CHILDREN = (kinds.DEPLOYMENT, kinds.SERVICE, kinds.ROLE_SCALER, kinds.SERVICE_ACCOUNT, kinds.DISRUPTION_BUDGET)
MARKS = {names.BASELINE, names.DRAINED, names.DELETION_COST}

Spec = dict[str, Any]


def build_spec(prefill: int, decode: int, restart: str = "0") -> Spec:
    roles = {"prefill": {"replicas": prefill}, "decode": {"replicas": decode}, "connector": {"type": "nixl"}}
    return {"model": {"source": "hf://org/model"}, "rollout": {"restartedAt": restart}, **roles}


# What each service is, and what it is changed to, the second change after a random time.
CHANGES: dict[str, list[Spec]] = {
    "roll": [build_spec(1, 2), build_spec(1, 2, "1")],
    "back": [build_spec(1, 2), build_spec(1, 2, "1"), build_spec(1, 2)],
    "fewer": [build_spec(2, 3), build_spec(1, 1)],
    "more": [build_spec(1, 2), build_spec(1, 3, "1")],
}


class Watcher:
    """Looks at all pods of a namespace again and again, and keeps what was not as it should be."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube, self._namespace, self._stop = kube, namespace, threading.Event()
        self.wrong: list[str] = []
        self.num_looks = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            pods, _ = self._kube.list(kinds.POD, self._namespace)
            self._look(list(pods))
            self.num_looks += 1

    def _look(self, pods: list[dict[str, Any]]) -> None:
        for service, specs in CHANGES.items():
            for role in ("prefill", "decode"):
                mine = [one for one in pods if labels(one, OF_SERVICE, COMPONENT) == (service, role)]
                counts = [spec[role]["replicas"] for spec in specs]
                num_serving = sum(is_ready(one) for one in mine)
                if num_serving < min(counts):
                    self.wrong.append(f"{service}: {num_serving} {role} pods serve, {min(counts)} should")
                if len(mine) > max(counts) + 1:
                    self.wrong.append(f"{service}: {len(mine)} {role} pods, at most {max(counts)} and one should be")


def labels(one: dict[str, Any], *wanted: str) -> tuple[str | None, ...]:
    return tuple(one["metadata"].get("labels", {}).get(name) for name in wanted)


def is_ready(pod: dict[str, Any]) -> bool:
    ready = [one for one in pod.get("status", {}).get("conditions", ()) if one["type"] == "Ready"]
    return "deletionTimestamp" not in pod["metadata"] and [one["status"] for one in ready] == ["True"]


class Story:
    """A namespace, an operator of its own class, and services that change while that operator is killed."""

    def __init__(self, cluster: Cluster, kube: Kube, account: tuple[str, Path], folder: Path, name: str) -> None:
        self._cluster, self._kube, self._folder, self.name = cluster, kube, folder, name
        self._system, self._kubeconfig = account
        cluster.kubectl("create", "namespace", name)
        self.operators: list[OperatorProgram] = []
        self.start()
        for service, specs in CHANGES.items():
            self._apply(service, specs[0])

    def start(self) -> None:
        self.operators.append(
            OperatorProgram(self._kubeconfig, self._system, self.name, self._folder, "--no-leader-election")
        )

    def run(self, seed: int | None) -> None:
        """All changes; None: undisturbed. Fails if bounds were broken, or if it does not end."""
        wait_until(self._are_ready, LONGEST, self.told)
        rng, watcher = random.Random(seed), Watcher(self._kube, self.name)
        try:
            self._change(rng, seed is not None)
            wait_until(self._is_done, LONGEST, lambda: f"{self.told()}\n{json.dumps(self.end(), indent=1)}")
        finally:
            watcher.stop()
            self.operators[-1].kill()
        assert watcher.num_looks > 10
        assert watcher.wrong == [], self.told()

    def end(self) -> dict[str, Any]:
        """What is there of each service, without what differs between namespaces."""
        found: dict[str, Any] = {service: [] for service in CHANGES}
        for kind in CHILDREN:
            for one in self._kube.list(kind, self.name, f"{names.MANAGED_BY}={names.MANAGER}")[0]:
                marks = sorted(MARKS & one["metadata"].get("annotations", {}).keys())
                replicas = one.get("spec", {}).get("replicas")
                found[one["metadata"]["labels"][OF_SERVICE]].append(
                    (kind.kind, one["metadata"]["name"], replicas, marks)
                )
        for pod in self._kube.list(kinds.POD, self.name)[0]:
            marks = sorted(MARKS & pod["metadata"].get("annotations", {}).keys())
            service, *place = labels(pod, OF_SERVICE, COMPONENT, REVISION)
            found[str(service)].append(("Pod", *place, is_ready(pod), marks))
        return {service: sorted(map(str, there)) for service, there in found.items()}

    def told(self) -> str:
        return "\n".join(f"--- {one.log.name}\n{one.log.read_text()}" for one in self.operators)

    def _change(self, rng: random.Random, is_killed: bool) -> None:
        kills = sorted(rng.uniform(0.0, 14.0) for _ in range(rng.randint(2, 4))) if is_killed else []
        moments = [(moment, None) for moment in kills]
        for service, specs in CHANGES.items():
            moments += [(0.0, (service, specs[1]))]
            moments += [(rng.uniform(0.5, 8.0), (service, spec)) for spec in specs[2:]]
        begun = time.monotonic()
        for moment, change in sorted(moments, key=lambda one: one[0]):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            if change is not None:
                self._apply(*change)
            else:
                self.operators[-1].kill()
                time.sleep(rng.choice((0.0, 1.0)))
                self.start()

    def _apply(self, service: str, spec: Spec) -> None:
        metadata = {"name": service, "namespace": self.name, "annotations": {"penstock.dev/operator-class": self.name}}
        whole = {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata}
        self._cluster.apply({**whole, "spec": on_simulated_nodes(spec)})

    def _services(self) -> list[dict[str, Any]]:
        return list(self._kube.list(kinds.INFERENCE_SERVICE, self.name)[0])

    def _are_ready(self) -> bool:
        return all(is_settled(one) for one in self._services())

    def _is_done(self) -> bool:
        """The spec's own pods, of one revision, and no others."""
        if not self._are_ready():
            return False
        pods = list(self._kube.list(kinds.POD, self.name)[0])
        for service, specs in CHANGES.items():
            for role in ("prefill", "decode"):
                mine = [one for one in pods if labels(one, OF_SERVICE, COMPONENT) == (service, role)]
                is_one = len({labels(one, REVISION) for one in mine}) == 1
                if not is_one or len(mine) != specs[-1][role]["replicas"] or not all(map(is_ready, mine)):
                    return False
        olds = [one for one in self._kube.list(kinds.DEPLOYMENT, self.name)[0] if one["spec"]["replicas"] == 0]
        return not olds


def is_settled(service: dict[str, Any]) -> bool:
    status = service.get("status", {})
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    is_current = status.get("observedGeneration") == service["metadata"]["generation"]
    return is_current and conditions.get("Ready") == "True" and conditions.get("Reconciling", "False") == "False"


@pytest.fixture(scope="module")
def kube(cluster) -> Kube:
    client = kubernetes.config.new_client_from_config(str(cluster.kubeconfig))
    return Kube(client, seconds=15.0, tell=lambda verb, status, seconds: None)


@pytest.fixture(scope="module")
def account(cluster, definitions, tmp_path_factory) -> tuple[str, Path]:
    return install_account(cluster, "", tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def nodes(cluster, tmp_path_factory) -> Iterator[None]:
    with simulated_nodes(cluster, tmp_path_factory.mktemp("nodes"), start=START, end=END):
        yield


@pytest.fixture
def begin(cluster, kube, account, nodes, tmp_path) -> Iterator[Callable[[int | None], Story]]:
    begun: list[Story] = []

    def begin(seed: int | None) -> Story:
        name = f"killed-{'never' if seed is None else seed}-{os.getpid()}"
        begun.append(Story(cluster, kube, account, tmp_path, name))
        return begun[-1]

    yield begin
    for story in begun:
        story.operators[-1].kill()
        cluster.run("kubectl", "delete", "namespace", story.name, "--wait=false")


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_a_rollout_whose_operator_is_killed_ends_as_the_undisturbed_one(begin, seeds):
    stories = {seed: begin(seed) for seed in (None, *seeds)}
    failures: dict[int | None, BaseException] = {}

    def run(seed: int | None) -> None:
        try:
            stories[seed].run(seed)
        except BaseException as error:  # for the thread that waits
            failures[seed] = error

    threads = [threading.Thread(target=run, args=(seed,)) for seed in stories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, error in failures.items():
        raise AssertionError(f"seed {seed}") from error
    expected = stories[None].end()
    for seed in seeds:
        assert stories[seed].end() == expected, f"seed {seed}: {stories[seed].told()}"
