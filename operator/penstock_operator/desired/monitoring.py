"""What Prometheus scrapes, and what it warns of, where its operator is installed."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator import kinds, names
from penstock_operator.desired.children import Defaults
from penstock_operator.desired.identity import build_child
from penstock_operator.desired.network import has_tls
from penstock_operator.duration import parse_duration
from penstock_operator.service import Manifest, Service

SERVICE_LABEL = "penstock_dev_service"  # what Prometheus makes of names.SERVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition that somebody should hear of."""

    name: str
    expr: str
    lasts: str
    severity: str  # critical: clients notice; warning: they will
    summary: str


def build_monitoring(service: Service, defaults: Defaults) -> list[Manifest]:
    """PodMonitors and a PrometheusRule, as far as the cluster knows them."""
    found = []
    if kinds.POD_MONITOR in defaults.apis:
        found.append(build_monitor(service, names.network_policy(service.key.name), "internal", has_role=True))
        if service.has_router:
            found.append(build_monitor(service, names.router(service.key.name), "http", has_role=False))
    if kinds.PROMETHEUS_RULE in defaults.apis:
        found.append(build_rule(service))
    return found


def build_monitor(service: Service, name: str, port: str, *, has_role: bool) -> Manifest:
    """Of the pods of all roles, or of the router's."""
    endpoint: Manifest = {"port": port, "path": "/metrics"}
    if has_tls(service) and not has_role:
        endpoint |= {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}  # pods are asked by address
    role = {"key": names.ROLE, "operator": "Exists" if has_role else "DoesNotExist"}
    component = {"key": names.COMPONENT, "operator": "NotIn", "values": [names.DOWNLOAD]}
    return build_child(
        service,
        kinds.POD_MONITOR,
        name,
        names.common_labels(service.key.name),
        spec={
            "selector": {
                "matchLabels": {names.SERVICE: service.key.name},
                "matchExpressions": [role, component],
            },
            "podTargetLabels": [names.SERVICE, names.COMPONENT, names.REVISION],
            "podMetricsEndpoints": [endpoint],
        },
    )


def build_rule(service: Service) -> Manifest:
    """The alerts, as one group."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": f"{service.key}: {alert.summary}"},
        }
        for alert in build_alerts(service)
    ]
    name = service.key.name
    return build_child(
        service,
        kinds.PROMETHEUS_RULE,
        name,
        names.common_labels(name),
        spec={"groups": [{"name": f"penstock-{name}", "rules": rules}]},
    )


def build_alerts(service: Service) -> list[Alert]:
    """What is worth a person's attention; the metrics are those of `penstock serve` and `penstock route`."""
    chosen = f'namespace="{service.key.namespace}",{SERVICE_LABEL}="{service.key.name}"'
    alerts = [
        Alert(
            name="PenstockEngineRestarts",
            expr=f"sum(increase(penstock_engine_restarts_total{{{chosen}}}[15m])) > 2",
            lasts="0m",
            severity="warning",
            summary="engines die again and again; look at the pods' logs",
        ),
        Alert(
            name="PenstockTransfersFail",
            expr=f"sum(rate(penstock_kv_transfer_failures_total{{{chosen}}}[10m]))"
            f" > 0.1 * sum(rate(penstock_kv_transfers_total{{{chosen}}}[10m]))",
            lasts="10m",
            severity="warning",
            summary="more than a tenth of the KV transfers fail; prompts are computed by decode pods instead",
        ),
    ]
    return alerts + (build_router_alerts(service, chosen) if service.has_router else [])


def build_router_alerts(service: Service, chosen: str) -> list[Alert]:
    """What only the router knows."""
    responses = f"penstock_router_http_responses_total{{{chosen}"
    alerts = [
        Alert(
            name="PenstockErrors",
            expr=f'sum(rate({responses},code=~"5.."}}[5m])) > 0.01 * sum(rate({responses}}}[5m]))',
            lasts="5m",
            severity="critical",
            summary="more than one answer in a hundred is an error",
        ),
        Alert(
            name="PenstockRequestsHeld",
            expr=f"sum(penstock_router_requests_held{{{chosen}}}) > 0",
            lasts="5m",
            severity="warning",
            summary="requests have to wait for a place; there are too few pods",
        ),
    ]
    slo = service.spec.slo
    if slo is not None and slo.ttft is not None:
        buckets = f"sum by (le) (rate(penstock_time_to_first_token_seconds_bucket{{{chosen}}}[5m]))"
        alerts.append(
            Alert(
                name="PenstockSlowFirstToken",
                expr=f"histogram_quantile(0.95, {buckets}) > {parse_duration(slo.ttft):g}",
                lasts="5m",
                severity="warning",
                summary=f"one request in twenty waits longer than {slo.ttft} for its first token",
            )
        )
    return alerts
