"""The LeaderWorkerSet of a role whose replicas are groups of pods: a leader, which takes the requests, and workers."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.desired.children import Defaults
from penstock_operator.desired.identity import build_child
from penstock_operator.desired.replica_shape import gpus_of, num_workers
from penstock_operator.errors import SpecError
from penstock_operator.service import Manifest, Service

LONGEST_NAME = 31  # of a service: the StatefulSet of its 1,000th group has 52 letters, and with more it makes no pods
ANNOTATIONS = "leaderworkerset.sigs.k8s.io/"
SERVING_PARTS = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")  # of leaders alone


def check_groups(service: Service, role: str, size: int, defaults: Defaults) -> None:
    """Raise `SpecError` where this cluster, or this name, cannot have groups of pods."""
    if kinds.LEADER_WORKER_SET not in defaults.apis:
        gpus, workers = gpus_of(service.roles[role]), num_workers(service)
        whose = "" if role == names.BOTH else f" of {role}"
        each = "1 accelerator" if gpus == 1 else f"{gpus} accelerators"
        message = (
            f"a replica{whose} spans {size} pods ({workers} workers, {each} in each pod), which"
            f" need LeaderWorkerSet ({kinds.LEADER_WORKER_SET.api_version}) in the cluster: install it from"
            f" https://lws.sigs.k8s.io, or ask for {workers} accelerators in resources"
        )
        raise SpecError("LeaderWorkerSetMissing", f"spec.engine: {message}")
    if len(service.key.name) > LONGEST_NAME:
        message = f"where a replica spans several pods, write at most {LONGEST_NAME} characters"
        raise SpecError("InvalidSpec", f"metadata.name: the name becomes part of longer names: {message}")


def build_leader_worker_set(
    service: Service, name: str, *, digest: str, size: int, leader: Manifest, worker: Manifest
) -> Manifest:
    """Without `spec.replicas`, which counts groups. `leader` and `worker`: templates of pods, `size` pods together.

    A group whose pod or container ended starts anew as a whole: ranks cannot come back into a collective. Annotations
    of LeaderWorkerSet's own, such as exclusive-topology, are taken over from the template: the set is where they count.
    """
    labels = {label: value for label, value in leader["metadata"]["labels"].items() if label in names.SELECTING}
    template = {
        "size": size,
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": leader,
        "workerTemplate": worker,
    }
    return build_child(
        service,
        kinds.LEADER_WORKER_SET,
        name,
        labels,
        annotations={
            **{
                word: value for word, value in leader["metadata"]["annotations"].items() if word.startswith(ANNOTATIONS)
            },
            names.USER_HASH: digest,
        },
        spec={"startupPolicy": "LeaderCreated", "leaderWorkerTemplate": template},
    )


def group_words(size: int) -> list[str]:
    """Flags by which the pods of a group find each other; LeaderWorkerSet gives every container these variables."""
    return [f"--nnodes={size}", "--node-rank=$(LWS_WORKER_INDEX)", "--master-addr=$(LWS_LEADER_ADDRESS)"]


def as_worker(container: Manifest) -> Manifest:
    """A leader's container as workers have it: nobody connects to it but its own group."""
    return {part: value for part, value in container.items() if part not in SERVING_PARTS}
