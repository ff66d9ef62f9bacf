"""What keeps a service up while nodes are drained, and what others scale and watch it by."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.desired.identity import build_child
from penstock_operator.desired.replica_shape import pods_per_replica
from penstock_operator.service import Manifest, Service


def build_disruption_budget(
    service: Service, name: str, labels: dict[str, str], selector: Manifest | None = None
) -> Manifest:
    """Nodes are drained one pod of a kind at a time; pods that are not healthy anyway hold nobody up."""
    return build_child(
        service,
        kinds.DISRUPTION_BUDGET,
        name,
        labels,
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": labels} if selector is None else selector,
        },
    )


def build_group_selector(service: Service, role: str) -> Manifest:
    """Of leaders and workers of a role: whichever pod goes takes its whole group with it."""
    name = service.key.name
    roles = [names.role_labels(name, role)[names.ROLE], names.worker_labels(name, role)[names.ROLE]]
    return {
        "matchLabels": names.common_labels(name),
        "matchExpressions": [{"key": names.ROLE, "operator": "In", "values": roles}],
    }


def build_disruption_budgets(service: Service) -> list[Manifest]:
    """One for each role, over its revisions, and one for the router."""
    name = service.key.name
    found = []
    for role in service.roles:
        selector = build_group_selector(service, role) if pods_per_replica(service, role) > 1 else None
        labels = names.role_labels(name, role)
        found.append(build_disruption_budget(service, names.of_role(name, role), labels, selector))
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
