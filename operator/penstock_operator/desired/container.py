"""What every container of ours has: environment, probes, rights and scratch space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock_operator import names
from penstock_operator.api.v1alpha1 import Resources, Runtime
from penstock_operator.desired.children import Defaults
from penstock_operator.service import Manifest, Service

ENGINE, ROUTER = "penstock", "router"  # names of containers
USER = 65532  # any that is not root: nothing in the image belongs to it
LOADING_SECONDS = 7200  # a big model may come over a slow line
PRE_STOP_SECONDS = 5  # until nobody sends new requests to a pod that was told to end
LATE_SECONDS = 15  # after the grace period, for the runtime to write its last bytes and end

SCRATCH_VOLUMES: tuple[Manifest, ...] = ({"name": "tmp", "emptyDir": {}},)
SCRATCH_MOUNTS: tuple[Manifest, ...] = ({"name": "tmp", "mountPath": "/tmp"},)


def build_pod_security() -> Manifest:
    """As the Pod Security Standard `restricted` wants it; volumes belong to the pod's group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def build_container_security(*, locks_memory: bool = False) -> Manifest:
    """No rights at all; RDMA needs to lock memory, which `restricted` does not allow."""
    capabilities: Manifest = {"drop": ["ALL"]}
    if locks_memory:
        capabilities["add"] = ["IPC_LOCK"]
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}


def build_env() -> list[Manifest]:
    """What every container's environment has. HOME is where caches of libraries go."""
    return [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOME", "value": "/tmp"},
    ]


def build_probes(port: str, *, liveness: str, is_https: bool = False, loading: int = 60) -> Manifest:
    """Startup (for `loading` seconds), readiness, and liveness at a path of its own."""

    def get(path: str) -> Manifest:
        found: Manifest = {"path": path, "port": port}
        return {**found, "scheme": "HTTPS"} if is_https else found

    return {
        "startupProbe": {
            "httpGet": get("/livez"),
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": loading,
        },
        "readinessProbe": {"httpGet": get("/readyz"), "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {"httpGet": get(liveness), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def build_resources(resources: Resources | None, **more: str) -> Manifest:
    """Requests and limits as they are given; `more`: devices."""
    found: Manifest = msgspec.to_builtins(resources) if resources is not None else {}
    if more:
        found["limits"] = {**found.get("limits", {}), **more}
    return {part: {name: str(amount) for name, amount in found[part].items()} for part in sorted(found)}


def build_image(service: Service, defaults: Defaults) -> Manifest:
    """Image and pull policy, the program in it, and that its last lines say why it ended."""
    runtime = service.spec.runtime or Runtime()
    image: Manifest = {
        "image": runtime.image or defaults.runtime_image,
        "command": ["penstock"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {**image, "imagePullPolicy": runtime.image_pull_policy} if runtime.image_pull_policy else image


def build_pod_base(service: Service, selector: dict[str, str], grace: float) -> Manifest:
    """What all pods of the service have beside containers and volumes; `selector`: of those to be kept apart."""
    runtime = service.spec.runtime or Runtime()
    spec: Manifest = {
        "serviceAccountName": runtime.service_account_name or names.service_account(service.key.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": build_pod_security(),
        "terminationGracePeriodSeconds": int(PRE_STOP_SECONDS + grace + LATE_SECONDS),
        "tolerations": [
            {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
            for taint in ("not-ready", "unreachable")
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ],
    }
    if runtime.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in runtime.image_pull_secrets]
    return spec


def build_key_volume(service: Service) -> Manifest:
    """The Secret with the service's key."""
    return {"name": "key", "secret": {"secretName": names.key_secret(service.uid), "defaultMode": 0o440}}


KEY_MOUNT: Manifest = {"name": "key", "mountPath": names.KEY_FOLDER, "readOnly": True}


def by_name(ours: Sequence[Manifest], theirs: Sequence[dict[str, Any]]) -> list[Manifest]:
    """Both lists; of two entries with one name theirs counts."""
    named = {entry["name"]: entry for entry in ours}
    named |= {entry["name"]: entry for entry in theirs}
    return list(named.values())
