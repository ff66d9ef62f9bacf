"""Lists everything, from time to time and after watches were cut: watches tell no deletions of the time between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from penstock.logs import event
from penstock_operator.cluster.discovery import check_own_kinds, optional_kinds
from penstock_operator.cluster.kube import Kube
from penstock_operator.cluster.store import Store
from penstock_operator.errors import ApiError
from penstock_operator.health import Health
from penstock_operator.keyed_queue import KeyedQueue
from penstock_operator.kinds import (
    AUTOSCALER,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    INFERENCE_SERVICE,
    JOB,
    NETWORK_POLICY,
    POD,
    ROLE_SCALER,
    SCALED_OBJECT,
    SERVICE,
    SERVICE_ACCOUNT,
    VOLUME_CLAIM,
    Kind,
)
from penstock_operator.metrics import Metrics
from penstock_operator.names import MANAGED_BY, MANAGER, Key

ALWAYS = (
    INFERENCE_SERVICE,
    ROLE_SCALER,
    DEPLOYMENT,
    POD,
    SERVICE,
    SERVICE_ACCOUNT,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    VOLUME_CLAIM,
    JOB,
    AUTOSCALER,
)
UNLABELLED = (INFERENCE_SERVICE, AUTOSCALER, SCALED_OBJECT)  # made by others, so without our label
RETRY_SECONDS = 5.0
SETTLE_SECONDS = 5.0  # without another word of a watch that was made anew
KINDS_SECONDS = 30.0  # between two looks at which optional kinds there are: services wait for them
SUSPECT_SECONDS = 60.0  # between two lists while a watch may be silent


def selector_of(kind: Kind) -> str:
    """Which objects of a kind are watched and listed, as the API server selects them."""
    return "" if kind in UNLABELLED else f"{MANAGED_BY}={MANAGER}"


class Resync:
    """Compares the store with lists. `kinds` are what it lists; everything is looked at anew each time."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        queue: KeyedQueue[Key],
        health: Health,
        metrics: Metrics,
        *,
        namespaces: Sequence[str],
        seconds: float,
        on_kinds: Callable[[], None],
    ) -> None:
        """`on_kinds` is called when the cluster got, or lost, an optional kind."""
        self._kube, self._store, self._queue, self._health, self._metrics = kube, store, queue, health, metrics
        self._namespaces, self._seconds, self._on_kinds = tuple(namespaces) or (None,), seconds, on_kinds
        self._soon = threading.Event()
        self._log = logging.getLogger(__name__)
        self._is_away = False  # for the log: each change once
        self._is_cut = False
        self.apis: frozenset[Kind] = frozenset()  # optional kinds that the cluster has

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is watched and listed."""
        return ALWAYS + tuple(sorted(self.apis, key=lambda kind: kind.plural))

    @property
    def is_asked_for(self) -> bool:
        """True if somebody wants a list soon."""
        return self._soon.is_set()

    def soon(self) -> None:
        """A watch was made anew, so list soon."""
        self._soon.set()

    def told(self, status: int) -> None:
        """A call to the API server has ended: if it was away and is back, watches were cut."""
        was_away, self._is_cut = self._is_cut, status == 0
        if was_away and not self._is_cut:
            self.soon()

    def run(self, stop: threading.Event) -> None:
        """List again and again until told to stop."""
        while not stop.is_set():
            is_done = self.turn()
            wait = self._seconds if is_done else RETRY_SECONDS
            if is_done and self._health.has_suspects:
                wait = min(wait, SUSPECT_SECONDS)
            self._wait(wait)
            while self._soon.is_set() and not stop.is_set():  # until watches that begin have listed what they list
                self._soon.clear()
                stop.wait(SETTLE_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Until it is time, somebody wants a list, or the cluster has got or lost an optional kind."""
        while seconds > 0 and not self._soon.wait(min(seconds, KINDS_SECONDS)):
            seconds -= KINDS_SECONDS
            if self._has_other_kinds():
                return

    def _has_other_kinds(self) -> bool:
        """True if what the cluster has is not what is watched; an API server that is away tells nothing."""
        try:
            return optional_kinds(self._kube) != self.apis
        except ApiError:
            return False

    def turn(self) -> bool:
        """List once; False if the API server did not let us, which is logged."""
        try:
            check_own_kinds(self._kube)
            self._discover()
            for kind in self.kinds:
                self._list(kind)
        except ApiError as error:
            if not self._is_away:
                self._is_away = True
                event(self._log, "cluster.away", level=logging.WARNING, why=error)
            return False
        if self._is_away:
            self._is_away = False
            event(self._log, "cluster.back")
        if self._health.is_starting:
            event(self._log, "operator.ready", services=len(self._store.services()))
        self._health.ready()
        for key in self._store.services():
            self._queue.add_for_later(key)
        return True

    def _discover(self) -> None:
        apis = optional_kinds(self._kube)
        if apis != self.apis:
            for kind in self.apis - apis:
                self._store.drop(kind)
            self.apis = apis
            event(self._log, "kinds.found", optional=",".join(sorted(kind.plural for kind in apis)) or "none")
            self._on_kinds()

    def _list(self, kind: Kind) -> None:
        for namespace in self._namespaces:
            items, version = self._kube.list(kind, namespace, selector_of(kind))
            found = self._store.replace(kind, namespace, items, version)
            for key in found.keys:
                self._queue.add(key)
            if found.num_missed and not self._health.is_starting:
                self._metrics.missed.labels(kind.plural).inc(found.num_missed)
                self._health.missed(kind)
