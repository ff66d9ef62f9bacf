"""From objects as the cluster has them to what planning looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock_operator import kinds, names
from penstock_operator.desired.replica_shape import gpus_per_replica
from penstock_operator.kinds import Kind
from penstock_operator.observed.advice import advised
from penstock_operator.observed.failures import ENDED, failures, living
from penstock_operator.observed.seen import LoadSeen, Observed, PodSeen, ScalerSeen, Trouble, WorkloadSeen
from penstock_operator.observed.trouble import load_trouble, pod_trouble
from penstock_operator.service import Manifest, Service, controller_of
from penstock_operator.timestamps import from_timestamp

Objects = Mapping[tuple[Kind, str], Manifest]
Places = Mapping[tuple[str, str], tuple[str, str]]  # kind and name of what makes pods -> their role and revision
WRITERS = (kinds.AUTOSCALER, kinds.SCALED_OBJECT)
MAKERS = {kinds.DEPLOYMENT: kinds.REPLICA_SET, kinds.LEADER_WORKER_SET: kinds.STATEFUL_SET}  # of a workload's pods
NOT_CHILDREN = (kinds.POD, kinds.REPLICA_SET, *WRITERS)  # owned by children, or of interest whoever owns them


def observe(service: Service, objects: Objects, loads: Mapping[str, LoadSeen], now: float) -> Observed:
    """What `objects`, all that has the service's label or one of its names, means. Reads nothing else."""
    owned = {key: one for key, one in objects.items() if controller_of(one).get("uid") == service.uid}
    foreign = [key for key, one in objects.items() if key not in owned and key[0] not in NOT_CHILDREN]
    writers = [one for key, one in objects.items() if key[0] in WRITERS]
    workloads = [_workload(kind, one) for (kind, _), one in owned.items() if kind in kinds.WORKLOADS]
    places = {(MAKERS[one.kind].kind, one.name): (one.role, one.revision) for one in workloads}
    places |= {(kinds.JOB.kind, name): (names.DOWNLOAD, "") for kind, name in owned if kind == kinds.JOB}
    there = [one for (kind, _), one in objects.items() if kind == kinds.POD]
    troubles = _worker_troubles(there, places, now)
    pods = [pod for one in there if (pod := _pod(one, places, loads, troubles, now)) is not None]
    pods = [replace(pod, trouble=advised(service, pod.trouble)) if pod.trouble else pod for pod in pods]
    return Observed(
        now=now,
        workloads=tuple(sorted((one for one in workloads if one.role != names.ROUTER), key=lambda one: one.name)),
        router=next((one for one in workloads if one.role == names.ROUTER), None),
        pods=living(pods),
        failures=failures(pods),
        scalers={
            scaler.role: scaler
            for (kind, _), one in owned.items()
            if kind == kinds.ROLE_SCALER
            for scaler in [_scaler(one, writers, service.uid)]
        },
        children=owned,
        foreign=tuple(sorted(foreign, key=lambda key: (key[0].kind, key[1]))),
        orphans=frozenset(key for key in foreign if _is_namesakes(objects[key], service)),
        loads=dict(loads),
        gpus_per_pod={role: gpus_per_replica(service, role) for role in service.roles},
    )


def _is_namesakes(manifest: Manifest, service: Service) -> bool:
    """True if an InferenceService of this name, and of another UID, controls it: Kubernetes will collect it."""
    owner = controller_of(manifest)
    return (owner.get("kind"), owner.get("name")) == (kinds.INFERENCE_SERVICE.kind, service.key.name)


def _workload(kind: Kind, manifest: Manifest) -> WorkloadSeen:
    metadata, spec, status = manifest["metadata"], manifest.get("spec", {}), manifest.get("status", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    return WorkloadSeen(
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        role=labels.get(names.COMPONENT, ""),
        revision=labels.get(names.REVISION, ""),
        user_hash=annotations.get(names.USER_HASH, ""),
        created=from_timestamp(metadata["creationTimestamp"]),
        wanted=spec.get("replicas", 1),
        observed=_has_seen(kind, manifest),
        num_pods=status.get("replicas", 0),
        num_ready=status.get("readyReplicas", 0),
        num_available=status.get("availableReplicas", 0),
        num_updated=status.get("updatedReplicas", 0),
        baseline=_whole(annotations.get(names.BASELINE)),
        manifest=manifest,
    )


def _has_seen(kind: Kind, manifest: Manifest) -> bool:
    """True if the controller has seen the newest generation. LeaderWorkerSets told of it only lately: one that tells
    nothing has seen everything, since its count of pods is asked as well."""
    status, generation = manifest.get("status", {}), manifest["metadata"].get("generation", 0)
    silent = generation if kind == kinds.LEADER_WORKER_SET and status else -1
    return bool(status.get("observedGeneration", silent) >= generation)


def _worker_troubles(pods: Sequence[Manifest], places: Places, now: float) -> dict[str, Trouble]:
    """What is wrong with the workers of a group, by its leader's name, which their StatefulSet has too."""
    found: dict[str, Trouble] = {}
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"]), reverse=True):
        owner = controller_of(pod)
        kind, leader = owner.get("kind", ""), owner.get("name", "")
        if (kind, leader.rpartition("-")[0]) in places and (trouble := pod_trouble(pod, now)) is not None:
            found[leader] = trouble  # the first worker's in the end
    return found


def _pod(
    manifest: Manifest, places: Places, loads: Mapping[str, LoadSeen], workers: Mapping[str, Trouble], now: float
) -> PodSeen | None:
    """A pod of one of our Deployments or Jobs, or the leader of a group, as its owner tells; None for any other,
    whatever its labels say.

    A ReplicaSet's name is its Deployment's and a hash; leaders have a StatefulSet of the LeaderWorkerSet's own name.
    """
    owner = controller_of(manifest)
    kind, name = owner.get("kind", ""), owner.get("name", "")
    place = places.get((kind, name.rpartition("-")[0] if kind == kinds.REPLICA_SET.kind else name))
    if place is None:
        return None
    metadata, status = manifest["metadata"], manifest.get("status", {})
    annotations = metadata.get("annotations", {})
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions", ())}
    return PodSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        role=place[0],
        revision=place[1],
        address=status.get("podIP", ""),
        node=manifest.get("spec", {}).get("nodeName", ""),
        phase=status.get("phase", "Pending"),
        is_ready=conditions.get("Ready") == "True" and status.get("phase") not in ENDED,
        leaves_by=_moment(metadata.get("deletionTimestamp")),
        created=from_timestamp(metadata["creationTimestamp"]),
        drained_since=_moment(annotations.get(names.DRAINED)),
        deletion_cost=_whole(annotations.get(names.DELETION_COST)) or 0,
        trouble=pod_trouble(manifest, now)
        or workers.get(metadata["name"])
        or load_trouble(loads.get(metadata["name"])),
        is_mounting=conditions.get("PodScheduled") == "True" and conditions.get("PodReadyToStartContainers") == "False",
    )


def _scaler(manifest: Manifest, writers: list[Manifest], uid: str) -> ScalerSeen:
    metadata = manifest["metadata"]
    return ScalerSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        role=metadata.get("labels", {}).get(names.ROLE, ""),
        request=manifest["spec"]["replicas"],
        writers=tuple(
            sorted(
                f"{one['kind']} {one['metadata']['name']}"
                for one in writers
                if _targets(one, metadata["name"]) and controller_of(one).get("uid") != uid
            )
        ),
        manifest=manifest,
    )


def _targets(writer: Manifest, scaler: str) -> bool:
    """True if an autoscaler of Kubernetes or KEDA writes this RoleScaler."""
    target = writer.get("spec", {}).get("scaleTargetRef", {})
    return bool(target.get("kind") == kinds.ROLE_SCALER.kind and target.get("name") == scaler)


def _moment(text: str | None) -> float | None:
    """An annotation is anybody's to write: what is no time counts as none."""
    try:
        return None if text is None else from_timestamp(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    """As with `_moment`."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
