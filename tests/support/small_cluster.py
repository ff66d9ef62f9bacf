"""A cluster in memory, small enough to be random: Deployments make pods, pods get ready, drain, crash and end."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from penstock_operator import kinds, names
from penstock_operator.kinds import Kind, kind_of
from penstock_operator.observed.seen import LoadSeen
from penstock_operator.plan.actions import Action, Annotate, Apply, Create, Delete, Drain, SetReplicas
from penstock_operator.service import Manifest
from penstock_operator.timestamps import from_timestamp, to_timestamp

Name = tuple[Kind, str]
START = 1_700_000_000.0
GRACE_SECONDS = 30.0


@dataclass(slots=True)
class Pod:
    """What the cluster knows of a pod beside its manifest."""

    deployment: str
    labels: dict[str, str]  # of its Deployment
    is_ready: bool = False
    is_drained: bool = False  # it was told to
    is_leaving: bool = False
    is_scheduled: bool = False
    is_crashing: bool = False
    is_cut_off: bool = False  # nobody hears of it any more


@dataclass(slots=True)
class SmallCluster:
    """`rng` decides what comes first. `capacity`: pods of roles that fit, None: all. `is_bad`: revisions that crash."""

    rng: random.Random
    capacity: int | None = None
    is_bad: Callable[[str], bool] = field(default=lambda revision: False)
    now: float = START
    objects: dict[Name, Manifest] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    told: list[Drain] = field(default_factory=list)
    _uids: int = 0

    def do(self, action: Action) -> None:
        """As the API server, or a pod, would."""
        match action:
            case Create(manifest=manifest):
                name = (kind_of(manifest), manifest["metadata"]["name"])
                assert name not in self.objects, f"{name} exists already"
                self._put(name, manifest)
            case Apply(manifest=manifest):
                self._apply(manifest)
            case SetReplicas(kind=kind, name=name, replicas=replicas):
                one = self.objects[kind, name]
                assert replicas >= 0
                self._write((kind, name), {**one, "spec": {**one["spec"], "replicas": replicas}})
            case Annotate(kind=kind, name=name, annotations=annotations):
                if (kind, name) in self.objects:
                    self._annotate((kind, name), annotations)
            case Drain(pod=pod, is_undrain=is_undrain):
                self.told.append(action)
                if pod in self.pods:
                    self.pods[pod].is_drained = not is_undrain
            case Delete(kind=kind, name=name):
                for pod in [pod for pod, state in self.pods.items() if state.deployment == name]:
                    if not self.pods[pod].is_cut_off:
                        assert names.ROLE not in self.pods[pod].labels, f"{pod} of a role would be cut short"
                        del self.pods[pod], self.objects[kinds.POD, pod]
                self.objects.pop((kind, name), None)

    def tick(self) -> None:
        """Time goes on, and each controller and each pod may or may not get to do something."""
        self.now += self.rng.choice((0.5, 1.0, 3.0))
        deployments = [name for kind, name in self.objects if kind == kinds.DEPLOYMENT]
        steps: list[Callable[[], None]] = [lambda name=name: self._run_deployment(name) for name in deployments]
        steps += [lambda name=name: self._run_pod(name) for name in self.pods]
        self.rng.shuffle(steps)
        for step in steps:
            if self.rng.random() < 0.7:
                step()
        for name in deployments:
            self._report(name)

    def view(self) -> dict[Name, Manifest]:
        """All objects, with pods as the API has them."""
        pods = {(kinds.POD, name): self._pod_manifest(name) for name in self.pods}
        return {key: one for key, one in self.objects.items() if key[0] != kinds.POD} | pods

    def loads(self) -> Mapping[str, LoadSeen]:
        """Drained pods are done after a while; nobody else is."""
        return {
            name: LoadSeen(
                pod=name,
                at=self.now,
                running=0 if pod.is_drained and self.rng.random() < 0.5 else 1 + int(name[-5:]) % 3,
                waiting=0,
                queued_tokens=0,
                leases=0,
                kv_usage=0.1,
            )
            for name, pod in self.pods.items()
            if pod.is_ready and self.rng.random() < 0.9
        }

    def of(self, role: str, revision: str | None = None) -> list[Pod]:
        """Pods of a role, and of one revision of it."""
        found = [pod for pod in self.pods.values() if pod.labels.get(names.ROLE) == role]
        return [pod for pod in found if revision in (None, pod.labels[names.REVISION])]

    def kill(self, name: str) -> None:
        """A pod is gone, and its ReplicaSet will make another."""
        del self.pods[name], self.objects[kinds.POD, name]

    def collect(self, uid: str) -> None:
        """An owner is gone, and so is what it owned."""
        for (kind, name), one in list(self.objects.items()):
            if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ())):
                del self.objects[kind, name]
                for pod in [pod for pod, state in self.pods.items() if state.deployment == name]:
                    self.kill(pod)

    def cut_off(self, name: str) -> None:
        """Its node is gone, and it is being evicted for ever."""
        pod = self.pods[name]
        pod.is_cut_off, pod.is_leaving, pod.is_ready = True, True, False
        self.objects[kinds.POD, name]["metadata"]["deletionTimestamp"] = to_timestamp(self.now + GRACE_SECONDS)

    def wanted(self) -> dict[str, int]:
        """`spec.replicas` by Deployment."""
        return {name: one["spec"]["replicas"] for (kind, name), one in self.objects.items() if kind == kinds.DEPLOYMENT}

    def _put(self, name: Name, manifest: Manifest) -> None:
        self._uids += 1
        metadata = {
            **manifest["metadata"],
            "uid": f"uid-{self._uids}",
            "generation": 1,
            "creationTimestamp": to_timestamp(self.now + self._uids),
        }
        self.objects[name] = {**manifest, "metadata": metadata}

    def _apply(self, manifest: Manifest) -> None:
        name = (kind_of(manifest), manifest["metadata"]["name"])
        if name not in self.objects:
            self._put(name, manifest)
            return
        before = self.objects[name]
        spec = {**before.get("spec", {}), **manifest.get("spec", {})}
        metadata = {**before["metadata"], **manifest["metadata"]}
        after = {**before, **manifest, "metadata": metadata, "spec": spec}
        if after != before:
            self._write(name, after)

    def _write(self, name: Name, manifest: Manifest) -> None:
        metadata = {**manifest["metadata"], "generation": manifest["metadata"]["generation"] + 1}
        self.objects[name] = {**manifest, "metadata": metadata}

    def _annotate(self, name: Name, annotations: Mapping[str, str | None]) -> None:
        one = self.objects[name]
        merged = {**one["metadata"].get("annotations", {}), **annotations}
        kept = {key: value for key, value in merged.items() if value is not None}
        self.objects[name] = {**one, "metadata": {**one["metadata"], "annotations": kept}}

    def _run_deployment(self, name: str) -> None:
        """Makes pods, or ends them in the order that Kubernetes has."""
        one = self.objects.get((kinds.DEPLOYMENT, name))
        if one is None:
            return
        own = [pod for pod, state in self.pods.items() if state.deployment == name and not state.is_leaving]
        for _ in range(one["spec"]["replicas"] - len(own)):
            self._uids += 1
            pod = f"{name}-5d9c-{self._uids:05d}"
            self.pods[pod] = Pod(deployment=name, labels=one["metadata"].get("labels", {}))
            metadata = {
                "name": pod,
                "uid": f"uid-{self._uids}",
                "creationTimestamp": to_timestamp(self.now),
                "ownerReferences": [{"kind": "ReplicaSet", "name": f"{name}-5d9c", "controller": True, "uid": "rs"}],
            }
            self.objects[kinds.POD, pod] = {"metadata": metadata}
        for pod in sorted(own, key=self._ending_order)[: max(0, len(own) - one["spec"]["replicas"])]:
            self.pods[pod].is_leaving = True
            metadata = self.objects[kinds.POD, pod]["metadata"]
            metadata["deletionTimestamp"] = to_timestamp(self.now + GRACE_SECONDS)

    def _ending_order(self, name: str) -> tuple[bool, bool, int, float]:
        pod, metadata = self.pods[name], self.objects[kinds.POD, name]["metadata"]
        cost = int(metadata.get("annotations", {}).get(names.DELETION_COST, "0"))
        return (pod.is_scheduled, pod.is_ready, cost, -from_timestamp(metadata["creationTimestamp"]))

    def _run_pod(self, name: str) -> None:
        """One step in its life."""
        pod = self.pods.get(name)
        if pod is None:
            return
        labels = pod.labels
        if pod.is_leaving:
            if self.rng.random() < 0.5 and not pod.is_cut_off:
                del self.pods[name], self.objects[kinds.POD, name]
        elif not pod.is_scheduled:
            taken = sum(self.pods[other].is_scheduled and names.ROLE in self.pods[other].labels for other in self.pods)
            pod.is_scheduled = names.ROLE not in labels or self.capacity is None or taken < self.capacity
        else:
            pod.is_crashing = names.REVISION in labels and self.is_bad(labels[names.REVISION])
            pod.is_ready = not pod.is_drained and not pod.is_crashing

    def _report(self, name: str) -> None:
        """The Deployment's status."""
        one = self.objects[kinds.DEPLOYMENT, name]
        own = [pod for pod in self.pods.values() if pod.deployment == name and not pod.is_leaving]
        num_ready = sum(pod.is_ready for pod in own)
        one["status"] = {
            "observedGeneration": one["metadata"]["generation"],
            "replicas": len(own),
            "updatedReplicas": len(own),
            "readyReplicas": num_ready,
            "availableReplicas": num_ready,
        }

    def _pod_manifest(self, name: str) -> Manifest:
        pod, one = self.pods[name], self.objects[kinds.POD, name]
        conditions = [{"type": "Ready", "status": str(pod.is_ready and not pod.is_leaving)}]
        if not pod.is_scheduled:
            refusal = {"reason": "Unschedulable", "message": "0/1 nodes are available: insufficient nvidia.com/gpu."}
            conditions.append({"type": "PodScheduled", "status": "False", **refusal})
        status: Manifest = {"phase": "Running" if pod.is_scheduled else "Pending", "conditions": conditions}
        if pod.is_scheduled:
            status["podIP"] = "10.0.0.1"
        if pod.is_crashing:
            ended = {"exitCode": 1, "reason": "Error", "message": "RuntimeError: no"}
            waits = {"reason": "CrashLoopBackOff"}
            status["containerStatuses"] = [{"state": {"waiting": waits}, "lastState": {"terminated": ended}}]
        spec = {"nodeName": "node-1"} if pod.is_scheduled else {}
        return {**one, "spec": spec, "status": status}
