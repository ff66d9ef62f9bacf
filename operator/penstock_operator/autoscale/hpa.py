"""Autoscalers of Kubernetes and of KEDA that scale a role by what we tell them. Pure.

Both get one number, the pods that a role's work would keep busy, and divide it by 1: the same demand that the built-in
autoscaler works with, so all three come to the same end.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import Autoscaling
from penstock_operator.autoscale.decide import window_seconds
from penstock_operator.autoscale.limits import has_range, widest
from penstock_operator.desired.identity import build_child
from penstock_operator.duration import parse_duration
from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest, Service

METRIC = "penstock-pods-needed"
LONGEST_WINDOW = 3600.0  # seconds, of autoscaling/v2


def build_autoscalers(service: Service, *, apis: frozenset[Kind], scaler_address: str) -> Sequence[Manifest]:
    """One for each role that is scaled, in the modes HPA and KEDA; `scaler_address`: host:port where KEDA finds us."""
    autoscaling = service.spec.autoscaling
    if autoscaling is None or service.spec.suspend:
        return ()
    roles = [role for role in service.roles if has_range(autoscaling, role)]
    if autoscaling.mode == "HPA":
        return tuple(_build_hpa(service, autoscaling, role) for role in roles)
    if autoscaling.mode == "KEDA" and kinds.SCALED_OBJECT in apis and scaler_address:
        return tuple(_build_scaled_object(service, autoscaling, role, scaler_address) for role in roles)
    return ()


def metric_labels(service: str, role: str) -> dict[str, str]:
    """What tells the number of one role from others."""
    return {"service": service, "role": role}


def _build_hpa(service: Service, autoscaling: Autoscaling, role: str) -> Manifest:
    low, high = widest(autoscaling, role)  # what a schedule sets now, the operator clamps by
    name = service.key.name
    metric = {"name": METRIC, "selector": {"matchLabels": metric_labels(name, role)}}
    external = {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}}
    return build_child(
        service,
        kinds.AUTOSCALER,
        names.of_role(name, role),
        names.role_labels(name, role),
        spec={
            "scaleTargetRef": _target(name, role),
            "minReplicas": low,
            "maxReplicas": high,
            "metrics": [{"type": "External", "external": external}],
            "behavior": _behavior(autoscaling),
        },
    )


def _build_scaled_object(service: Service, autoscaling: Autoscaling, role: str, address: str) -> Manifest:
    low, high = widest(autoscaling, role)  # what a schedule sets now, the operator clamps by
    name, after = service.key.name, autoscaling.scale_to_zero_after
    zero = {} if after is None else {"idleReplicaCount": 0, "cooldownPeriod": max(1, round(parse_duration(after)))}
    return build_child(
        service,
        kinds.SCALED_OBJECT,
        names.of_role(name, role),
        names.role_labels(name, role),
        spec={
            "scaleTargetRef": _target(name, role),
            "minReplicaCount": low,
            "maxReplicaCount": high,
            "pollingInterval": 5,
            **zero,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(autoscaling)}},
            "triggers": [{"type": "external", "metadata": {"scalerAddress": address, **metric_labels(name, role)}}],
        },
    )


def _target(service: str, role: str) -> Manifest:
    kind = kinds.ROLE_SCALER
    return {"apiVersion": kind.api_version, "kind": kind.kind, "name": names.of_role(service, role)}


def _behavior(autoscaling: Autoscaling) -> Manifest:
    up, down = (round(min(seconds, LONGEST_WINDOW)) for seconds in window_seconds(autoscaling))
    return {"scaleUp": {"stabilizationWindowSeconds": up}, "scaleDown": {"stabilizationWindowSeconds": down}}
