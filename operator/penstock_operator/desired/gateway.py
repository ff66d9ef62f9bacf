"""How a Gateway reaches the service: an HTTPRoute, and if asked for an InferencePool."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import Gateway
from penstock_operator.desired.children import Defaults
from penstock_operator.desired.identity import build_child
from penstock_operator.desired.network import front_port, owner_labels
from penstock_operator.errors import SpecError
from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest, Service

NO_TIMEOUT: Manifest = {"request": "0s"}  # Envoy's own 15 s (gateway.envoyproxy.io, "HTTP Timeouts") would cut streams
PICKER_PORT = 9002  # gRPC, of endpoint pickers by custom


def build_gateway_parts(service: Service, defaults: Defaults) -> list[Manifest]:
    """The route, and the pool that it leads to. Raises `SpecError` where the cluster does not have these APIs."""
    gateway = service.spec.router.gateway if service.spec.router else None
    if gateway is None:
        return []
    need(kinds.HTTP_ROUTE, defaults, "spec.router.gateway", "Gateway API")
    if not gateway.inference_pool:
        return [build_route(service, gateway, {"name": service.key.name, "port": front_port(service)})]
    need(kinds.INFERENCE_POOL, defaults, "spec.router.gateway.inferencePool", "the Gateway API inference extension")
    pool = kinds.INFERENCE_POOL
    backend = {"group": pool.group, "kind": pool.kind, "name": service.key.name}
    return [build_pool(service), build_route(service, gateway, backend)]


def need(kind: Kind, defaults: Defaults, field: str, product: str) -> None:
    """Raise `SpecError` if the cluster does not know the kind."""
    if kind not in defaults.apis:
        message = f"{field}: this cluster has no {kind.kind} ({kind.api_version}); install {product}, or leave it out"
        raise SpecError("ApiMissing", message)


def build_route(service: Service, gateway: Gateway, backend: Manifest) -> Manifest:
    """From the Gateway's listeners to `backend`."""
    parents = []
    for parent in gateway.parents:
        given = {"name": parent.name, "namespace": parent.namespace, "sectionName": parent.section_name}
        parents.append({key: value for key, value in given.items() if value is not None})
    spec: Manifest = {"parentRefs": parents, "rules": [{"backendRefs": [backend], "timeouts": NO_TIMEOUT}]}
    if gateway.hostnames:
        spec["hostnames"] = list(gateway.hostnames)
    name = service.key.name
    return build_child(service, kinds.HTTP_ROUTE, name, names.common_labels(name), spec=spec)


def build_pool(service: Service) -> Manifest:
    """The pods that own requests, for an endpoint picker that the user runs under the name that `names.picker` gives;
    while it is away, any pod will do."""
    name = service.key.name
    return build_child(
        service,
        kinds.INFERENCE_POOL,
        name,
        names.common_labels(name),
        spec={
            "selector": {"matchLabels": owner_labels(service)},
            "targetPorts": [{"number": names.HTTP_PORT}],
            "endpointPickerRef": {
                "name": names.picker(name),
                "port": {"number": PICKER_PORT},
                "failureMode": "FailOpen",
            },
        },
    )
