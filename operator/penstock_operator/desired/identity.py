"""Who a child is: its metadata, its revision, and the key that the pods of one service share."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from penstock_operator import kinds, names
from penstock_operator.desired.children import Defaults
from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest, Service

REVISION_DIGITS = 8
PROPAGATED_LABELS = (
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/version",
)  # of the InferenceService, to its children
KEY_PURPOSE = b"penstock service key\n"


def build_child(
    service: Service,
    kind: Kind,
    name: str,
    labels: Mapping[str, str],
    *,
    annotations: Mapping[str, str] | None = None,
    **parts: Any,
) -> Manifest:
    """An object that belongs to the service and goes with it; `parts`: what stands beside its metadata."""
    metadata: Manifest = {
        "name": name,
        "namespace": service.key.namespace,
        "labels": {**propagated(service), **labels},
        "ownerReferences": [build_owner_reference(service)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **parts}


def build_owner_reference(service: Service) -> Manifest:
    """The service controls the child; deleting it waits for nobody (no `blockOwnerDeletion`)."""
    kind = kinds.INFERENCE_SERVICE
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": service.key.name,
        "uid": service.uid,
        "controller": True,
    }


def propagated(service: Service) -> dict[str, str]:
    """Labels that children take over. Pods do not, or a new label would not fit the running ones."""
    return {name: service.labels[name] for name in PROPAGATED_LABELS if name in service.labels}


def user_hash(service: Service) -> str:
    """SHA-256, hex, of what the user set for the pods of all roles: not of defaults, and not of numbers of pods."""
    spec, roles = service.spec, service.roles.items()
    return hash_of(
        model=spec.model,
        engine=spec.engine,
        roles=[{"role": role, **given(resources=its.resources, template=its.template)} for role, its in roles],
        connector=spec.connector,
        runtime=spec.runtime,
        restarted_at=spec.rollout.restarted_at if spec.rollout else None,
        has_api_keys=has_api_keys(service),
    )


def hash_of(**parts: object) -> str:
    """SHA-256, hex, of canonical JSON of what is given: a part that a later version adds changes no hash until somebody
    sets it."""
    return hashlib.sha256(msgspec.json.encode(given(**parts), order="sorted")).hexdigest()


def given(**parts: object) -> Manifest:
    """Those parts that say anything, as JSON has them."""
    plain = {name: msgspec.to_builtins(part) for name, part in parts.items()}
    return {name: part for name, part in plain.items() if part not in (None, False, {}, [], ())}


def has_api_keys(service: Service) -> bool:
    """True if clients need a key, so that nobody may reach the pods but through the router."""
    return service.spec.security is not None and service.spec.security.api_keys_secret is not None


def revision_of(digest: str) -> str:
    """The short form of a `user_hash`, as it stands in names and labels."""
    return digest[:REVISION_DIGITS]


def service_key(master: bytes, uid: str) -> bytes:
    """The key of one service, 64 hex digits: nobody derives it without the operator's master key."""
    return hmac.new(master, KEY_PURPOSE + uid.encode(), "sha256").hexdigest().encode()


def build_key_secret(service: Service, defaults: Defaults) -> Manifest:
    """The key that pods and router mount: a line each for the present one and the previous one."""
    lines = b"".join(service_key(master, service.uid) + b"\n" for master in defaults.master_keys[:2])
    return build_child(
        service,
        kinds.SECRET,
        names.key_secret(service.uid),
        names.common_labels(service.key.name),
        type="Opaque",
        data={names.KEY_FILE: base64.b64encode(lines).decode()},
    )


def build_service_account(service: Service) -> Manifest:
    """An account without rights, whose token no pod mounts."""
    name = service.key.name
    return build_child(
        service,
        kinds.SERVICE_ACCOUNT,
        names.service_account(name),
        names.common_labels(name),
        automountServiceAccountToken=False,
    )
