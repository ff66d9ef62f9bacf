"""Which optional kinds a cluster has."""

from __future__ import annotations

from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import INFERENCE_SERVICE, OPTIONAL, ROLE_SCALER, Kind


def optional_kinds(kube: Kube) -> frozenset[Kind]:
    """Those of `OPTIONAL` that the API server serves. Raises `ApiError` if it does not say."""
    served = {version: kube.resources(version) for version in {kind.api_version for kind in OPTIONAL}}
    return frozenset(kind for kind in OPTIONAL if kind.plural in served[kind.api_version])


def check_own_kinds(kube: Kube) -> None:
    """Raises `ApiError` 404 if our own CustomResourceDefinitions are not installed."""
    there = kube.resources(INFERENCE_SERVICE.api_version)
    if missing := [kind.kind for kind in (INFERENCE_SERVICE, ROLE_SCALER) if kind.plural not in there]:
        raise ApiError(
            404, f"{' and '.join(missing)} not installed: helm install penstock-crds", reason="NoDefinitions"
        )
