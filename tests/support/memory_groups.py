"""The LeaderWorkerSet controller in memory: groups of a `MemoryApi` get a leader and workers, by index."""

from __future__ import annotations

from penstock_operator.kinds import LEADER_WORKER_SET, POD
from penstock_operator.service import Manifest
from support.memory_api import MemoryApi


class MemoryGroups:
    """One `step` is one turn of the controller and the kubelets. Pods run at once, leaders are ready one step later."""

    def __init__(self, api: MemoryApi) -> None:
        self.api = api
        self.dead_workers: dict[str, str] = {}  # name of a worker's pod -> its last words

    def step(self) -> None:
        for workload in self.api.all(LEADER_WORKER_SET):
            self._ready(workload)
            self._resize(workload)
            self._tell(workload)

    def pods(self, workload: Manifest) -> list[Manifest]:
        """All pods of its groups."""
        name = workload["metadata"]["name"]
        return [pod for pod in self.api.all(POD) if pod["metadata"]["name"].startswith(f"{name}-")]

    def _leaders(self, workload: Manifest) -> list[Manifest]:
        owner = workload["metadata"]["name"]
        return [pod for pod in self.pods(workload) if pod["metadata"]["ownerReferences"][0]["name"] == owner]

    def _ready(self, workload: Manifest) -> None:
        for pod in self._leaders(workload):
            self._update(pod, {"conditions": [{"type": "Ready", "status": "True"}]})
        for pod in self.pods(workload):
            if (said := self.dead_workers.get(pod["metadata"]["name"])) is not None:
                ended = {"terminated": {"exitCode": 2, "message": said}}
                self._update(pod, {"containerStatuses": [{"name": "penstock", "state": ended, "ready": False}]})

    def _resize(self, workload: Manifest) -> None:
        """The highest indices go, whatever their pods do."""
        metadata, spec = workload["metadata"], workload["spec"]
        template = spec["leaderWorkerTemplate"]
        for pod in self.pods(workload):
            index = int(pod["metadata"]["name"].removeprefix(metadata["name"] + "-").split("-")[0])
            if index >= spec["replicas"]:
                self.api.remove(POD, metadata["namespace"], pod["metadata"]["name"])
        there = {pod["metadata"]["name"] for pod in self._leaders(workload)}
        for index in range(spec["replicas"]):
            leader = f"{metadata['name']}-{index}"
            if leader not in there:
                self._create(leader, metadata["name"], metadata, template["leaderTemplate"])
                for number in range(1, template["size"]):
                    self._create(f"{leader}-{number}", leader, metadata, template["workerTemplate"])

    def _create(self, name: str, owner: str, metadata: Manifest, template: Manifest) -> None:
        reference = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "uid": metadata["uid"]}
        self.api.post(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    **template["metadata"],
                    "name": name,
                    "namespace": metadata["namespace"],
                    "ownerReferences": [{**reference, "controller": True}],
                },
                "spec": template["spec"],
                "status": {"phase": "Running", "podIP": f"10.9.0.{sum(map(ord, name)) % 250 + 1}"},
            }
        )

    def _tell(self, workload: Manifest) -> None:
        leaders = self._leaders(workload)
        ready = sum(bool(pod["status"].get("conditions")) for pod in leaders)
        status = {"replicas": len(leaders), "readyReplicas": ready, "updatedReplicas": len(leaders)}
        metadata = workload["metadata"]
        self.api.update(LEADER_WORKER_SET, metadata["namespace"], metadata["name"], {"status": status})

    def _update(self, pod: Manifest, status: Manifest) -> None:
        self.api.update(POD, pod["metadata"]["namespace"], pod["metadata"]["name"], {"status": status})
