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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from penstock.logs import event
from penstock_operator.autoscale.api_service import ApiServiceKeeper
from penstock_operator.autoscale.hpa import METRIC
from penstock_operator.autoscale.offer import Offer
from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import CONFIG_MAP
from penstock_operator.names import Key
from penstock_operator.service import Manifest
from penstock_operator.timestamps import to_timestamp

GROUP_VERSION = "external.metrics.k8s.io/v1beta1"
ROOT = f"/apis/{GROUP_VERSION}"
FRESH_SECONDS = 60.0  # between two looks at what the cluster says
RETRY_SECONDS = 5.0  # between two looks whether files are new, and after what went wrong

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
    """The server, in a thread of its own; certificates are read anew when they change, and then believed."""

    def __init__(self, kube: Kube, offer: Offer, *, port: int, folder: Path, namespace: str) -> None:
        """`folder`: with tls.crt and tls.key, as a Secret of type kubernetes.io/tls is mounted.

        `namespace`: of this operator, and of the Service that the APIService should name.
        """
        self._kube, self._offer, self._port, self._folder = kube, offer, port, folder
        self._keeper = ApiServiceKeeper(kube, namespace=namespace, folder=folder, clock=time.monotonic)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_on()), name="metrics-api", daemon=True)
        self._at_work: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._proxy: FrontProxy | None = None
        self._context: ssl.SSLContext | None = None
        self._shown: tuple[int, ...] = ()  # stamp of the files that are served
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
        names = lambda: self._proxy.names if self._proxy is not None else ()  # noqa: E731
        runner = web.AppRunner(build_app(self._offer, names), access_log=None)
        await runner.setup()
        look_at = 0.0
        try:
            while not stop.is_set():
                try:
                    if time.monotonic() >= look_at or self._stamp() != self._shown:
                        await self._look(runner)
                        look_at = time.monotonic() + (RETRY_SECONDS if self.problem else FRESH_SECONDS)
                except (ApiError, OSError, ValueError) as error:
                    event(_log, "metrics_api.waits", level=logging.WARNING, why=error)
                    self.problem = f"the operator's API of external metrics does not run: {error}"
                    look_at = 0.0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_SECONDS)
        finally:
            self._at_work = None
            await runner.cleanup()

    async def _look(self, runner: web.AppRunner) -> None:
        """Serve what the files hold, to whom the cluster names: believed first, so that the API server asks on."""
        found, stamp = await asyncio.to_thread(read_front_proxy, self._kube), self._stamp()
        is_new = (found, stamp) != (self._proxy, self._shown)
        context = self._build_context(found) if is_new else None  # raises for files that do not fit together
        try:
            self.problem = await asyncio.to_thread(self._keeper.look)
        finally:
            if context is not None:
                await self._show(runner, context, found)
                self._proxy, self._shown = found, stamp

    async def _show(self, runner: web.AppRunner, context: ssl.SSLContext, proxy: FrontProxy) -> None:
        """To whoever connects from now on, at the same socket: who is in the middle of it is not lost."""
        if self._context is not None and proxy == self._proxy:
            self._load_certificate(self._context)
            event(_log, "certificate.replaced", port=self.port)
            return
        for site in list(runner.sites):  # another front proxy: nobody is to be believed any more for the old one's sake
            await site.stop()
        site = web.TCPSite(runner, "", self.port or self._port, ssl_context=context)
        await site.start()
        self._context, self.port = context, runner.addresses[0][1]
        event(_log, "metrics_api.listening", port=self.port)

    def _build_context(self, proxy: FrontProxy) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=proxy.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        self._load_certificate(context)
        return context

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")

    def _stamp(self) -> tuple[int, ...]:
        files = (self._folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


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
