"""The Job that fills the shared volume, and what pods do until it has."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import ModelCache, Runtime
from penstock_operator.desired import container as parts
from penstock_operator.desired.children import Defaults
from penstock_operator.desired.identity import build_child, hash_of, revision_of
from penstock_operator.desired.storage import (
    build_cache_env,
    build_cache_mount,
    build_cache_volume,
    build_token_env,
    fetch_words,
    is_filled_here,
)
from penstock_operator.service import Manifest, Service

ATTEMPTS = 1_000_000  # a token may be put right, or a network repaired, at any time


def build_downloads(service: Service, defaults: Defaults) -> list[Manifest]:
    """The Job, if there is something to fill. A Job cannot be changed: what the user set for it is part of its name.
    It has no TTL, because it is how we know that the volume is filled."""
    if not is_filled_here(service):
        return []
    name = service.key.name
    labels = {**names.common_labels(name), names.COMPONENT: names.DOWNLOAD}
    spec: Manifest = {
        "backoffLimit": ATTEMPTS,
        "template": {"metadata": {"labels": labels}, "spec": build_download_pod(service, defaults)},
    }
    model, cache = service.spec.model, service.spec.model.cache or ModelCache(type="Shared")
    digest = hash_of(
        source=model.source,
        revision=model.revision,
        credentials_secret=model.credentials_secret,
        claim_name=cache.claim_name,
        runtime=service.spec.runtime,
    )
    return [build_child(service, kinds.JOB, names.download(name, revision_of(digest)), labels, spec=spec)]


def build_download_pod(service: Service, defaults: Defaults) -> Manifest:
    """One container, which writes to the volume."""
    runtime = service.spec.runtime or Runtime()
    env = [*parts.build_env(), *build_cache_env(is_offline=False), *build_token_env(service)]
    container = {
        "name": names.DOWNLOAD,
        **parts.build_image(service, defaults),
        "args": fetch_words(service, "--receipt", f"--report-port={names.HTTP_PORT}"),
        "ports": [{"name": "http", "containerPort": names.HTTP_PORT}],
        "env": parts.by_name(env, runtime.env),  # a proxy, a mirror of the hub
        "securityContext": parts.build_container_security(),
        "volumeMounts": [*parts.SCRATCH_MOUNTS, build_cache_mount(is_read_only=False)],
    }
    base = parts.build_pod_base(service, {}, grace=0.0)
    del base["topologySpreadConstraints"]
    volumes = [*parts.SCRATCH_VOLUMES, build_cache_volume(service, is_read_only=False)]
    return {**base, "restartPolicy": "OnFailure", "containers": [container], "volumes": volumes}


def build_waiter(service: Service, defaults: Defaults) -> Manifest:
    """An init container that ends when the volume holds the whole model."""
    return {
        "name": "wait-for-model",
        **parts.build_image(service, defaults),
        "args": fetch_words(service, "--wait"),
        "env": [*parts.build_env(), *build_cache_env(is_offline=True)],
        "securityContext": parts.build_container_security(),
        "volumeMounts": [*parts.SCRATCH_MOUNTS, build_cache_mount(is_read_only=True)],
    }
