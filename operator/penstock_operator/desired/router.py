"""The router's Deployment: its template names no revision of the pods, so a rollout of theirs cuts no stream."""

from __future__ import annotations

from penstock_operator import names
from penstock_operator.api.v1alpha1 import Router, Runtime, Security
from penstock_operator.desired import container as parts
from penstock_operator.desired.children import Defaults, Workload
from penstock_operator.desired.flags import (
    API_KEYS_FILE,
    API_KEYS_FOLDER,
    TLS_FOLDER,
    is_scaled_to_zero,
    route_words,
    shutdown_grace,
)
from penstock_operator.desired.identity import has_api_keys, hash_of
from penstock_operator.desired.network import has_pool, has_tls
from penstock_operator.desired.template import merge_template
from penstock_operator.desired.workload import build_deployment, build_template
from penstock_operator.errors import SpecError
from penstock_operator.service import Manifest, Service


def build_router_workload(service: Service, defaults: Defaults) -> Workload | None:
    """The router's Deployment, if there is to be one. Raises `SpecError` for what only a router can do."""
    security = service.spec.security or Security()
    if not service.has_router:
        for field, value in {"apiKeysSecret": security.api_keys_secret, "tls": security.tls}.items():
            if value is not None:
                raise SpecError("InvalidSpec", f"spec.security.{field}: only the router can do that; enable it")
        return None
    if has_pool(service) and has_api_keys(service):
        message = "an InferencePool leads past the router, which alone knows the API keys; leave one of both out"
        raise SpecError("InvalidSpec", f"spec.router.gateway.inferencePool: {message}")
    router = service.spec.router or Router()
    digest = router_hash(service)
    template = build_template(names.router_labels(service.key.name), build_router_pod(service, router, defaults))
    manifest = build_deployment(
        service,
        names.router(service.key.name),
        digest=digest,
        template=merge_template(template, router.template, "spec.router"),
    )
    return Workload(role=names.ROUTER, revision="", user_hash=digest, manifest=manifest)


def router_hash(service: Service) -> str:
    """Of what the user set for the router's pods."""
    spec = service.spec
    router, security, runtime = spec.router or Router(), spec.security or Security(), spec.runtime or Runtime()
    return hash_of(
        args=router.args,
        resources=router.resources,
        template=router.template,
        api_keys=security.api_keys_secret,
        tls=security.tls,
        image=runtime.image,
        image_pull_policy=runtime.image_pull_policy,
        image_pull_secrets=runtime.image_pull_secrets,
        service_account_name=runtime.service_account_name,
        restarted_at=spec.rollout.restarted_at if spec.rollout else None,
        holds=is_scaled_to_zero(service),
    )


def build_router_pod(service: Service, router: Router, defaults: Defaults) -> Manifest:
    """The spec of the router's pods, without what the user's template adds."""
    security = service.spec.security or Security()
    volumes, mounts = (
        [parts.build_key_volume(service), *parts.SCRATCH_VOLUMES],
        [parts.KEY_MOUNT, *parts.SCRATCH_MOUNTS],
    )
    if security.api_keys_secret is not None:
        items = [{"key": API_KEYS_FILE, "path": API_KEYS_FILE}]
        keys = {"secretName": security.api_keys_secret, "defaultMode": 0o440, "items": items}
        volumes.append({"name": "api-keys", "secret": keys})
        mounts.append({"name": "api-keys", "mountPath": API_KEYS_FOLDER, "readOnly": True})
    if security.tls is not None:
        volumes.append({"name": "tls", "secret": {"secretName": security.tls.secret_name, "defaultMode": 0o440}})
        mounts.append({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True})
    container = {
        "name": parts.ROUTER,
        **parts.build_image(service, defaults),
        "args": route_words(service, router.args, defaults.cluster_domain),
        "env": parts.build_env(),
        "ports": [{"name": "http", "containerPort": names.HTTP_PORT}],
        "resources": parts.build_resources(router.resources),
        "securityContext": parts.build_container_security(),
        **parts.build_probes("http", liveness="/livez", is_https=has_tls(service)),
        "lifecycle": {"preStop": {"sleep": {"seconds": parts.PRE_STOP_SECONDS}}},
        "volumeMounts": mounts,
    }
    spread = names.router_labels(service.key.name)
    base = parts.build_pod_base(service, spread, shutdown_grace(router.args))
    return {**base, "containers": [container], "volumes": volumes}
