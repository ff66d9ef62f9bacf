"""From a service to everything that it should have."""

from __future__ import annotations

from penstock_operator.autoscale.hpa import build_autoscalers
from penstock_operator.desired.children import Children, Defaults
from penstock_operator.desired.download import build_downloads
from penstock_operator.desired.gateway import build_gateway_parts
from penstock_operator.desired.identity import build_key_secret, build_service_account
from penstock_operator.desired.monitoring import build_monitoring
from penstock_operator.desired.network import build_front_service, build_network_policies, build_role_service
from penstock_operator.desired.policy import build_disruption_budgets, build_scaler
from penstock_operator.desired.router import build_router_workload
from penstock_operator.desired.storage import build_claims
from penstock_operator.desired.workload import build_role_workload
from penstock_operator.service import Service


def build_children(service: Service, defaults: Defaults) -> Children:
    """All children of a service; the same arguments give the same manifests. Raises `SpecError`."""
    workloads = tuple(build_role_workload(service, role, defaults) for role in service.roles)
    return Children(
        revision=workloads[0].revision,
        workloads=workloads,
        router=build_router_workload(service, defaults),
        applied=(
            build_service_account(service),
            build_key_secret(service, defaults),
            *build_claims(service),
            *(build_role_service(service, role) for role in service.roles),
            build_front_service(service),
            *build_network_policies(service, defaults),
            *build_disruption_budgets(service),
            *build_downloads(service, defaults),
            *build_gateway_parts(service, defaults),
            *build_monitoring(service, defaults),
            *build_autoscalers(service, apis=defaults.apis, scaler_address=defaults.scaler_address),
        ),
        scalers=tuple(build_scaler(service, role) for role in service.roles),
    )
