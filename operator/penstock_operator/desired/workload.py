"""What makes the pods of a role, in one revision: a Deployment, or a LeaderWorkerSet."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import Engine, Runtime
from penstock_operator.desired import container as parts
from penstock_operator.desired.children import Defaults, Workload
from penstock_operator.desired.download import build_waiter
from penstock_operator.desired.flags import serve_words, shutdown_grace
from penstock_operator.desired.identity import build_child, revision_of, user_hash
from penstock_operator.desired.leader_worker_set import as_worker, build_leader_worker_set, check_groups
from penstock_operator.desired.replica_shape import check_shape, pods_per_replica
from penstock_operator.desired.storage import (
    ModelPlace,
    build_cache_env,
    build_token_env,
    is_filled_here,
    is_shared,
    place_model,
)
from penstock_operator.desired.template import merge_template
from penstock_operator.service import Manifest, Service

SHM_VOLUME: Manifest = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
SHM_MOUNT: Manifest = {"name": "shm", "mountPath": "/dev/shm"}


def build_role_workload(service: Service, role: str, defaults: Defaults) -> Workload:
    """A role's Deployment in the revision that the spec asks for; its LeaderWorkerSet where a replica is several pods.

    Raises `SpecError` for what cannot be, here or at all.
    """
    digest = user_hash(service)
    revision = revision_of(digest)
    name = names.deployment(service.key.name, role, revision)
    check_shape(service, role)
    size = pods_per_replica(service, role)
    template = build_role_template(service, role, revision, defaults)
    if size == 1:
        manifest = build_deployment(service, name, digest=digest, template=template)
    else:
        check_groups(service, role, size, defaults)
        worker = build_role_template(service, role, revision, defaults, is_worker=True)
        manifest = build_leader_worker_set(service, name, digest=digest, size=size, leader=template, worker=worker)
    return Workload(role=role, revision=revision, user_hash=digest, manifest=manifest)


def build_role_template(
    service: Service, role: str, revision: str, defaults: Defaults, *, is_worker: bool = False
) -> Manifest:
    """Of a role's pods, with what the user's template adds; `is_worker`: of those beside a leader."""
    label = names.worker_labels if is_worker else names.role_labels
    labels = {**label(service.key.name, role), names.REVISION: revision}
    pod = build_role_pod(service, role, revision, defaults, spread=dict(labels))
    if is_worker:
        pod["containers"] = [as_worker(container) for container in pod["containers"]]
    field = f"spec.{'prefill' if role == names.PREFILL else 'decode'}"
    return merge_template(build_template(labels, pod), service.roles[role].template, field)


def build_deployment(service: Service, name: str, *, digest: str, template: Manifest) -> Manifest:
    """Without `spec.replicas`: who plans says how many. Its labels, and its selector, are those of its pods."""
    selector = {label: value for label, value in template["metadata"]["labels"].items() if label in names.SELECTING}
    return build_child(
        service,
        kinds.DEPLOYMENT,
        name,
        selector,
        annotations={names.USER_HASH: digest},
        spec={
            "selector": {"matchLabels": selector},
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": parts.LOADING_SECONDS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    )


def build_template(labels: dict[str, str], spec: Manifest) -> Manifest:
    """Of pods. kubectl and people find the container that matters."""
    annotations = {"kubectl.kubernetes.io/default-container": spec["containers"][0]["name"]}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def build_role_pod(
    service: Service, role: str, revision: str, defaults: Defaults, *, spread: dict[str, str]
) -> Manifest:
    """The spec of a role's pods, without what the user's template adds; `spread`: labels of those to be kept apart."""
    model = place_model(service)
    grace = shutdown_grace((service.spec.engine or Engine()).args)
    volumes = [parts.build_key_volume(service), *parts.SCRATCH_VOLUMES, SHM_VOLUME, *model.volumes]
    pod = {
        **parts.build_pod_base(service, spread, grace),
        "containers": [build_engine(service, role, revision, model, defaults)],
        "volumes": volumes,
    }
    return {**pod, "initContainers": [build_waiter(service, defaults)]} if is_filled_here(service) else pod


def build_engine(service: Service, role: str, revision: str, model: ModelPlace, defaults: Defaults) -> Manifest:
    """The container that runs `penstock serve`."""
    rdma = service.spec.connector.rdma if service.spec.connector else None
    devices = {rdma: "1"} if rdma else {}
    runtime = service.spec.runtime or Runtime()
    return {
        "name": parts.ENGINE,
        **parts.build_image(service, defaults),
        "args": serve_words(service, role, revision, model.argument, defaults.cluster_domain),
        "env": parts.by_name([*parts.build_env(), *build_model_env(service, model)], runtime.env),
        "ports": [
            {"name": "http", "containerPort": names.HTTP_PORT},
            {"name": "internal", "containerPort": names.INTERNAL_PORT},
        ],
        "resources": parts.build_resources(service.roles[role].resources, **devices),
        "securityContext": parts.build_container_security(locks_memory=rdma is not None),
        **parts.build_probes("internal", liveness="/healthz", loading=parts.LOADING_SECONDS),
        "lifecycle": {"preStop": {"sleep": {"seconds": parts.PRE_STOP_SECONDS}}},
        "volumeMounts": [parts.KEY_MOUNT, *parts.SCRATCH_MOUNTS, SHM_MOUNT, *model.mounts],
    }


def build_model_env(service: Service, model: ModelPlace) -> list[Manifest]:
    """Where the model is, and what opens the hub. What is shared is fetched by others."""
    if not model.has_cache:
        return []
    if is_shared(service):
        return build_cache_env(is_offline=True)
    return [*build_cache_env(is_offline=False), *build_token_env(service)]
