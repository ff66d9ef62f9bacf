"""Controllers and kubelets in memory: Deployments of a `MemoryApi` get pods, and pods become ready after some steps."""

from __future__ import annotations

import collections
import hashlib

from penstock_operator.kinds import DEPLOYMENT, POD, Kind
from support.memory_api import MemoryApi


class MemoryCluster:
    """One `step` is one turn of every controller. Pods are ready two steps after they were made."""

    def __init__(self, api: MemoryApi) -> None:
        self.api = api
        self.is_unready: set[str] = set()  # parts of pod names whose pods never become ready
        self._count = 0

    def step(self) -> None:
        deployments = self.api.all(DEPLOYMENT)
        pods = self._pods()
        for deployment in deployments:
            self._pods_of(deployment, pods[_replica_set(deployment)])
        pods = self._pods()
        for deployment in deployments:
            self._status_of(deployment, pods[_replica_set(deployment)])

    def _pods(self) -> dict[str, list[dict]]:
        """By ReplicaSet."""
        found = collections.defaultdict(list)
        for pod in self.api.all(POD):
            found[pod["metadata"]["ownerReferences"][0]["name"]].append(pod)
        return found

    def _pods_of(self, deployment: dict, pods: list[dict]) -> None:
        wanted = deployment["spec"]["replicas"]
        for pod in pods:
            self._advance(pod)
        for _ in range(wanted - len(pods)):
            self._create(deployment)
        doomed = sorted(pods, key=_order)[: max(0, len(pods) - wanted)]
        for pod in doomed:
            self.api.remove(POD, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _create(self, deployment: dict) -> None:
        self._count += 1
        metadata, template = deployment["metadata"], deployment["spec"]["template"]
        name = _replica_set(deployment)
        uid = metadata["uid"]
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid, "controller": True}
        self.api.post(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    **template["metadata"],
                    "name": f"{name}-{self._count:05}",
                    "namespace": metadata["namespace"],
                    "ownerReferences": [owner],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
        )

    def _advance(self, pod: dict) -> None:
        metadata, status = pod["metadata"], pod["status"]
        number = int(metadata["name"].rpartition("-")[2])
        if status["phase"] == "Pending":
            self._update(POD, pod, {"phase": "Running", "podIP": f"10.0.{number // 250}.{number % 250 + 1}"})
        elif not any(part in metadata["name"] for part in self.is_unready):
            self._update(POD, pod, {"conditions": [{"type": "Ready", "status": "True"}]})

    def _status_of(self, deployment: dict, pods: list[dict]) -> None:
        ready = sum(bool(pod["status"].get("conditions")) for pod in pods)
        status = {"observedGeneration": deployment["metadata"]["generation"], "replicas": len(pods)}
        status |= {"readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": len(pods)}
        self._update(DEPLOYMENT, deployment, status)

    def _update(self, kind: Kind, there: dict, status: dict) -> None:
        metadata = there["metadata"]
        self.api.update(kind, metadata["namespace"], metadata["name"], {"status": status})


def _replica_set(deployment: dict) -> str:
    template = hashlib.sha256(repr(deployment["spec"]["template"]).encode()).hexdigest()[:8]
    return f"{deployment['metadata']['name']}-{template}"


def _order(pod: dict) -> tuple:
    """Which go first: those that are not ready, then those whose deletion costs least."""
    cost = pod["metadata"].get("annotations", {}).get("controller.kubernetes.io/pod-deletion-cost", "0")
    return bool(pod["status"].get("conditions")), int(cost)
