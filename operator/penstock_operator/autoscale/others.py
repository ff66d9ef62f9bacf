"""The servers through which HPAs and KEDA are told, and what keeps either of them from working."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from penstock_operator.autoscale.loop import Autoscaler
from penstock_operator.autoscale.metrics_api import MetricsApi
from penstock_operator.autoscale.offer import Offer
from penstock_operator.cluster.kube import Kube
from penstock_operator.kinds import SCALED_OBJECT, Kind
from penstock_operator.names import Key
from penstock_operator.observed.seen import ScalingSeen
from penstock_operator.settings import Settings

NO_HPA = "this operator serves no metrics for HPAs: install its chart with externalMetrics.enabled=true"
NO_KEDA = "this operator serves no KEDA: install its chart with keda.enabled=true"
NOT_INSTALLED = "this cluster has no ScaledObjects: install KEDA, or use another mode"


class Others:
    """Those servers that the settings ask for, none by default. Raises `OperatorError` for a port that is taken."""

    def __init__(self, kube: Kube, autoscaler: Autoscaler, offer: Offer, settings: Settings) -> None:
        self._autoscaler, self._settings = autoscaler, settings
        self._metrics_api = None
        if settings.external_metrics_port:
            self._metrics_api = MetricsApi(
                kube,
                offer,
                port=settings.external_metrics_port,
                folder=Path(settings.external_metrics_folder),
                namespace=settings.operator_namespace,
            )
        self._keda = None
        if settings.keda_port:
            from penstock_operator.autoscale.keda import KedaScaler  # gRPC is large, and few need it

            self._keda = KedaScaler(offer, port=settings.keda_port)

    def start(self) -> None:
        """Begin."""
        for server in (self._metrics_api, self._keda):
            if server is not None:
                server.start()

    def stop(self, seconds: float) -> None:
        """End within that time."""
        for server in (self._metrics_api, self._keda):
            if server is not None:
                server.stop(seconds)

    def scaling(self, key: Key, apis: frozenset[Kind]) -> ScalingSeen | None:
        """What the autoscaler says, and what keeps the service's mode from working. `apis`: optional, that exist."""
        seen, watched = self._autoscaler.scaling(key), self._autoscaler.watched(key)
        autoscaling = None if watched is None else watched.service.spec.autoscaling
        if seen is None or autoscaling is None:
            return seen
        return dataclasses.replace(seen, problem=self._problem(autoscaling.mode, apis))

    def _problem(self, mode: str, apis: frozenset[Kind]) -> str:
        if mode == "HPA":
            return NO_HPA if self._metrics_api is None else self._metrics_api.problem
        if mode == "KEDA":
            return NOT_INSTALLED if SCALED_OBJECT not in apis else NO_KEDA if self._keda is None else ""
        return ""
