"""What the user of a service can do about a trouble: which field, and which Secret."""

from __future__ import annotations

import dataclasses

from penstock_operator.desired.storage import TOKEN
from penstock_operator.observed.seen import Trouble
from penstock_operator.service import Service


def advised(service: Service, trouble: Trouble) -> Trouble:
    """The same trouble; its message ends with what to change, if that is known."""
    if (advice := _advice(service, trouble)) is None:
        return trouble
    return dataclasses.replace(trouble, message=f"{trouble.message}; {advice}")


def _advice(service: Service, trouble: Trouble) -> str | None:
    secret = service.spec.model.credentials_secret
    create = f"kubectl -n {service.key.namespace} create secret generic"
    match trouble.reason:
        case "ModelAccessDenied" if secret is None:
            return f"name a Secret with the key {TOKEN} in spec.model.credentialsSecret, or correct spec.model.source"
        case "ModelAccessDenied":
            return f"the token is the key {TOKEN} of Secret {secret}, which spec.model.credentialsSecret names"
        case "ModelNotFound":
            return "correct spec.model.source or spec.model.revision"
        case "ModelCacheFull":
            return _room(service)
        case "ConfigMissing" if secret is not None and secret in trouble.message:
            return f"spec.model.credentialsSecret needs it: {create} {secret} --from-file={TOKEN}=…"
        case _:
            return None


def _room(service: Service) -> str:
    """Where it is made."""
    cache = service.spec.model.cache
    if cache is not None and cache.claim_name is not None:
        return f"make room in the volume of PersistentVolumeClaim {cache.claim_name}, or enlarge it"
    return "raise spec.model.cache.size"
