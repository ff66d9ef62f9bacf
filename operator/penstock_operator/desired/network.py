"""Services, and who may connect to what."""

from __future__ import annotations

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import NetworkRules, Router, RouterService, Security
from penstock_operator.desired.children import Defaults
from penstock_operator.desired.identity import build_child
from penstock_operator.names import BOTH, DECODE
from penstock_operator.service import Manifest, Service

HTTP: Manifest = {"name": "http", "port": names.HTTP_PORT, "targetPort": "http"}
INTERNAL: Manifest = {"name": "internal", "port": names.INTERNAL_PORT, "targetPort": "internal"}
PROMETHEUS: Manifest = {
    "namespaceSelector": {},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}


def build_role_service(service: Service, role: str) -> Manifest:
    """A headless Service over all revisions of a role: the addresses of its pods, ready or not, since pods and router
    find out themselves how each one is, and what drains must stay in reach."""
    labels = names.role_labels(service.key.name, role)
    return build_child(
        service,
        kinds.SERVICE,
        names.of_role(service.key.name, role),
        labels,
        spec={
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": labels,
            "ports": [HTTP, INTERNAL],
        },
    )


def build_front_service(service: Service) -> Manifest:
    """What clients use: the router, or without one the pods that own requests."""
    wanted = (service.spec.router or Router()).service or RouterService()
    return build_child(
        service,
        kinds.SERVICE,
        service.key.name,
        names.common_labels(service.key.name),
        annotations=wanted.annotations,
        spec={
            "type": wanted.type or "ClusterIP",
            "selector": front_labels(service),
            "ports": [
                {
                    "name": "https" if has_tls(service) else "http",
                    "port": front_port(service),
                    "targetPort": "http",
                    "appProtocol": "https" if has_tls(service) else "http",
                }
            ],
        },
    )


def front_labels(service: Service) -> dict[str, str]:
    """Of the pods that take requests of clients."""
    return names.router_labels(service.key.name) if service.has_router else owner_labels(service)


def owner_labels(service: Service) -> dict[str, str]:
    """Of the pods that own requests."""
    return names.role_labels(service.key.name, DECODE if DECODE in service.roles else BOTH)


def front_port(service: Service) -> int:
    """Of the Service that clients use."""
    wanted = (service.spec.router or Router()).service or RouterService()
    return wanted.port or (443 if has_tls(service) else 80)


def has_tls(service: Service) -> bool:
    """True if clients speak HTTPS."""
    return service.spec.security is not None and service.spec.security.tls is not None


def has_pool(service: Service) -> bool:
    """True if an InferencePool sends requests to the pods, past the router."""
    gateway = (service.spec.router or Router()).gateway
    return gateway is not None and gateway.inference_pool is True


def build_network_policies(service: Service, defaults: Defaults) -> list[Manifest]:
    """Pods of the service reach each other, on all ports: KV blocks move over ports that NIXL chooses. Others reach
    what is for them."""
    rules = (service.spec.security or Security()).network_policy or NetworkRules()
    if rules.enabled is False:
        return []
    name = service.key.name
    clients = allow(names.HTTP_PORT, list(rules.clients))
    watchers = [build_operator_peer(defaults)]
    if kinds.POD_MONITOR in defaults.apis:
        watchers.append(PROMETHEUS)
    siblings: Manifest = {"from": [{"podSelector": {"matchLabels": {names.SERVICE: name}}}]}
    pods = [siblings, allow(names.INTERNAL_PORT, watchers)]
    if not service.has_router or has_pool(service):
        pods.append(clients)
    policies = [
        build_policy(
            service,
            names.network_policy(name),
            {
                "matchLabels": {names.SERVICE: name},
                "matchExpressions": [{"key": names.ROLE, "operator": "Exists"}],
            },
            pods,
        )
    ]
    if service.has_router:
        selector: Manifest = {"matchLabels": names.router_labels(name)}
        router = [clients, allow(names.HTTP_PORT, [*watchers, {"podSelector": {"matchLabels": {names.SERVICE: name}}}])]
        policies.append(build_policy(service, names.router(name), selector, router))
    return policies


def allow(port: int, peers: list[Manifest]) -> Manifest:
    """Ingress to one port, from everybody where nobody is named."""
    rule: Manifest = {"ports": [{"protocol": "TCP", "port": port}]}
    return {**rule, "from": peers} if peers else rule


def build_operator_peer(defaults: Defaults) -> Manifest:
    """The operator, who drains pods and asks for their load."""
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": defaults.operator_namespace}}}


def build_policy(service: Service, name: str, selector: Manifest, ingress: list[Manifest]) -> Manifest:
    """A NetworkPolicy for what comes in; what goes out is free."""
    return build_child(
        service,
        kinds.NETWORK_POLICY,
        name,
        names.common_labels(service.key.name),
        spec={"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress},
    )
