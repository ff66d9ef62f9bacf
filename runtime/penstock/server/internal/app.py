"""The application on the internal port: what the pods of a service and their router say to each other."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from penstock.internal.fleet import FLEET_PATH
from penstock.internal.protocol import (
    DRAIN_PATH,
    KV_PATH,
    LOAD_PATH,
    PREFILL_PATH,
    RENEW_PATH,
    ROUTABLE,
    ROUTE_PATH,
    UNDRAIN_PATH,
)
from penstock.server import probes
from penstock.server.app import refuse
from penstock.server.endpoint import Endpoint
from penstock.server.internal.drain import drain, undrain
from penstock.server.internal.gate import InternalGate
from penstock.server.internal.lending import prefill, renew, show_kv
from penstock.server.internal.load import show_fleet, show_load
from penstock.server.internal.route import route
from penstock.server.internal.sidecar import pass_through
from penstock.server.serving import Serving

ENDPOINTS = (
    Endpoint("GET", LOAD_PATH, show_load),
    Endpoint("GET", KV_PATH, show_kv),
    Endpoint("POST", PREFILL_PATH, prefill),
    Endpoint("POST", RENEW_PATH, renew),
    Endpoint("POST", ROUTE_PATH, route),
    Endpoint("POST", DRAIN_PATH, drain),
    Endpoint("POST", UNDRAIN_PATH, undrain),
    *(Endpoint("POST", path, pass_through) for path in ROUTABLE),
    Endpoint("GET", FLEET_PATH, show_fleet, is_open=True),
    Endpoint("GET", "/version", probes.version, is_open=True),
    Endpoint("GET", "/metrics", probes.metrics, is_open=True),
    Endpoint("GET", "/livez", probes.livez, is_open=True),
    Endpoint("GET", "/readyz", probes.readyz, is_open=True),
    Endpoint("GET", "/healthz", probes.healthz, is_open=True),
)


def build_internal_app(serving: Serving) -> Starlette:
    """The application over the same engine as the public one."""
    open_paths = {endpoint.path for endpoint in ENDPOINTS if endpoint.is_open}
    if serving.config.trust_sidecar:
        open_paths |= set(ROUTABLE)
    return Starlette(
        routes=[endpoint.build_route(serving) for endpoint in ENDPOINTS],
        middleware=[Middleware(InternalGate, serving=serving, open_paths=frozenset(open_paths))],
        exception_handlers={HTTPException: refuse},
    )
