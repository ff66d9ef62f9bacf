"""`external.metrics.k8s.io/v1beta1`, as the API server's aggregation layer asks for it on behalf of HPAs.

Only the aggregation layer is answered: it shows a certificate of the front-proxy CA with one of the names that the
cluster allows (ConfigMap kube-system/extension-apiserver-authentication). Who may ask it was checked by the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from penstock.logs import event
from penstock_operator.autoscale.hpa import METRIC
from penstock_operator.autoscale.offer import Offer
from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import API_SERVICE, CONFIG_MAP
from penstock_operator.names import Key
from penstock_operator.service import Manifest
from penstock_operator.timestamps import to_timestamp

GROUP_VERSION = "external.metrics.k8s.io/v1beta1"
ROOT = f"/apis/{GROUP_VERSION}"
NAME = "v1beta1.external.metrics.k8s.io"
FRESH_SECONDS = 60.0  # between two looks whether certificates are new
RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontProxy:
    """Whom to believe."""

    authority: str  # PEM
    names: tuple[str, ...]  # common names; empty: any


def read_front_proxy(kube: Kube) -> FrontProxy:
    """As the cluster says. Raises `ApiError`, 404 if aggregation is off there."""
    data = kube.get(CONFIG_MAP, "kube-system", "extension-apiserver-authentication").get("data", {})
    authority = data.get("requestheader-client-ca-file", "")
    if not authority:
        raise ApiError(404, "this cluster has no front-proxy CA: its API server was started without aggregation")
    return FrontProxy(authority=authority, names=tuple(json.loads(data.get("requestheader-allowed-names") or "[]")))


def read_problem(kube: Kube, namespace: str) -> str:
    """What keeps the API server from asking us, as a sentence; empty: nothing. Raises `ApiError`."""
    try:
        service = kube.get(API_SERVICE, "", NAME)["spec"].get("service", {})
    except ApiError as error:
        if error.status != 404:
            raise
        return f"there is no APIService {NAME}: install the operator's chart with externalMetrics.enabled=true"
    if service.get("namespace") == namespace:
        return ""
    owner = f"{service.get('namespace')}/{service.get('name')}"
    return f"the APIService {NAME} leads to {owner}: only one can serve external metrics, so use mode Builtin or KEDA"


def build_app(offer: Offer, allowed: Callable[[], tuple[str, ...]]) -> web.Application:
    """The API. `allowed`: common names of who may ask; empty: whoever the CA signed."""

    async def discover(request: web.Request) -> web.Response:
        resource = {
            "name": METRIC,
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
        found = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [resource]}
        return web.json_response(found)

    async def value(request: web.Request) -> web.Response:
        if request.match_info["metric"] != METRIC:
            return _refused(404, "NotFound", f"there is only {METRIC}")
        labels = _labels(request.query.get("labelSelector", ""))
        if labels is None or not {"service", "role"} <= labels.keys():
            return _refused(400, "BadRequest", "select one role: service=NAME,role=prefill|decode|both")
        key = Key(request.match_info["namespace"], labels["service"])
        needed = offer.pods_needed(key, labels["role"])
        item = {
            "metricName": METRIC,
            "metricLabels": labels,
            "timestamp": to_timestamp(offer.clock()),
            "value": f"{0 if needed is None else round(needed * 1000)}m",
        }
        items = [] if needed is None else [item]  # an HPA holds when it is told nothing
        found = {"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}
        return web.json_response(found)

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
        if not _is_allowed(request, allowed()):
            return _refused(403, "Forbidden", "only the API server's aggregation layer is answered")
        return await handler(request)  # type: ignore[misc, no-any-return]

    app = web.Application(middlewares=[guard])
    app.router.add_get(ROOT, discover)
    app.router.add_get(f"{ROOT}/namespaces/{{namespace}}/{{metric}}", value)
    return app


class MetricsApi:
    """The server, in a thread of its own; certificates are read anew when they change."""

    def __init__(self, kube: Kube, offer: Offer, *, port: int, folder: Path, namespace: str) -> None:
        """`folder`: with tls.crt and tls.key, as a Secret of type kubernetes.io/tls is mounted.

        `namespace`: of this operator, and of the Service that the APIService should name.
        """
        self._kube, self._offer, self._port, self._folder, self._namespace = kube, offer, port, folder, namespace
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_on()), name="metrics-api", daemon=True)
        self._at_work: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.port: int | None = None  # where it listens
        self.problem = ""  # why HPAs are not told, as a sentence

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End within that time."""
        if self._at_work is not None:
            loop, stop = self._at_work
            loop.call_soon_threadsafe(stop.set)
            self._thread.join(seconds)

    async def _serve_on(self) -> None:
        stop = asyncio.Event()
        self._at_work = (asyncio.get_running_loop(), stop)
        proxy: FrontProxy | None = None
        stamp: tuple[int, ...] = ()
        runner = web.AppRunner(
            build_app(self._offer, lambda: proxy.names if proxy is not None else ()), access_log=None
        )
        await runner.setup()
        try:
            while not stop.is_set():
                try:
                    found = await asyncio.to_thread(read_front_proxy, self._kube)
                    if (found, self._stamp()) != (proxy, stamp):
                        context = self._context(found)
                        proxy, stamp = found, self._stamp()
                        await self._listen(runner, context)
                    self.problem = await asyncio.to_thread(read_problem, self._kube, self._namespace)
                    wait = FRESH_SECONDS
                except (ApiError, OSError, ValueError) as error:
                    event(_log, "metrics_api.waits", level=logging.WARNING, why=error)
                    self.problem = f"the operator's API of external metrics does not run: {error}"
                    wait = RETRY_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), wait)
        finally:
            self._at_work = None
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner, context: ssl.SSLContext) -> None:
        """At the same port with other certificates; who is connected stays so."""
        for site in list(runner.sites):
            await site.stop()
        site = web.TCPSite(runner, "", self.port or self._port, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        event(_log, "metrics_api.listening", port=self.port)

    def _context(self, proxy: FrontProxy) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=proxy.authority)
        context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _stamp(self) -> tuple[int, ...]:
        return tuple((self._folder / name).stat().st_mtime_ns for name in ("tls.crt", "tls.key"))


def _is_allowed(request: web.Request, names: tuple[str, ...]) -> bool:
    transport = request.transport
    shown = None if transport is None else transport.get_extra_info("peercert")
    if not shown:
        return False
    common = [value for part in shown.get("subject", ()) for name, value in part if name == "commonName"]
    return not names or any(name in names for name in common)


def _labels(selector: str) -> dict[str, str] | None:
    """Of a selector that only says `name=value`; None for others."""
    labels: dict[str, str] = {}
    for word in filter(None, selector.split(",")):
        name, equals, value = word.replace("==", "=").partition("=")
        if not equals or name.endswith("!") or " " in word.strip():
            return None
        labels[name.strip()] = value.strip()
    return labels


def _refused(status: int, reason: str, message: str) -> web.Response:
    told: Manifest = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": status,
    }
    return web.json_response(told, status=status)
