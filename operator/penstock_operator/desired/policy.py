"""What keeps a service up while nodes are drained, and what others scale and watch it by."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.desired.identity import build_child
from penstock_operator.service import Manifest, Service


def build_disruption_budget(service: Service, name: str, labels: dict[str, str]) -> Manifest:
    """Nodes are drained one pod of a kind at a time; pods that are not healthy anyway hold nobody up."""
    return build_child(
        service,
        kinds.DISRUPTION_BUDGET,
        name,
        labels,
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": labels},
        },
    )


def build_disruption_budgets(service: Service) -> list[Manifest]:
    """One for each role, over its revisions, and one for the router."""
    name = service.key.name
    found = [
        build_disruption_budget(service, names.of_role(name, role), names.role_labels(name, role))
        for role in service.roles
    ]
    if service.has_router:
        found.append(build_disruption_budget(service, names.router(name), names.router_labels(name)))
    return found


def build_scaler(service: Service, role: str) -> Manifest:
    """A role's RoleScaler without `spec.replicas`, which belongs to whoever scales."""
    name = service.key.name
    return build_child(
        service,
        kinds.ROLE_SCALER,
        names.of_role(name, role),
        names.role_labels(name, role),
        spec={"service": name, "role": role},
    )
