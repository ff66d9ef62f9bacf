"""The operator's process: what it is made of, from start to end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from penstock import logs
from penstock.logs import event
from penstock.version import VERSION
from penstock_operator import health as probes
from penstock_operator.api.status import Decision
from penstock_operator.autoscale.loop import Autoscaler, Outlets
from penstock_operator.autoscale.offer import Offer
from penstock_operator.autoscale.others import Others
from penstock_operator.cluster.apply import Writer
from penstock_operator.cluster.drainer import Drainer
from penstock_operator.cluster.events import Events
from penstock_operator.cluster.feed import Feed
from penstock_operator.cluster.kube import Kube, connect
from penstock_operator.cluster.leader import Leader
from penstock_operator.cluster.resync import Resync
from penstock_operator.cluster.shell import Shell
from penstock_operator.cluster.store import Store
from penstock_operator.desired.children import Defaults
from penstock_operator.errors import OperatorError
from penstock_operator.health import Health
from penstock_operator.keyed_queue import KeyedQueue
from penstock_operator.metrics import Metrics
from penstock_operator.names import FIELD_MANAGER, Key
from penstock_operator.observed.download_progress import ask_progress
from penstock_operator.reconcile import Reconciler
from penstock_operator.service import Service
from penstock_operator.settings import Settings
from penstock_operator.workers import Workers

LEASE_CALL_SECONDS = 5.0  # a Lease is renewed in time, or not at all
STOP_SECONDS = 10.0  # for what is being worked on when the process ends

_log = logging.getLogger(__name__)


class Process:
    """Everything that runs. Raises `OperatorError` if it cannot begin."""

    def __init__(self, settings: Settings) -> None:
        logs.configure("operator", settings.log_level)
        logging.getLogger("penstock_operator").setLevel(settings.log_level.upper())
        told = logging.WARNING if settings.log_level == "debug" else logging.CRITICAL  # each attempt of each watch …
        logging.getLogger("kopf").setLevel(told)  # … while `resync` says once that the API server is away
        self._settings = settings
        self._master_keys = read_master_keys(Path(settings.master_key_file))
        self._stop = threading.Event()
        self._metrics, self._health = Metrics(), Health(time.monotonic)
        self._store: Store = Store(settings.operator_class)
        self._queue: KeyedQueue[Key] = KeyedQueue(time.monotonic)
        client = connect()
        kube = Kube(client, seconds=settings.request_seconds, tell=self._tell)
        self._resync = Resync(
            kube,
            self._store,
            self._queue,
            self._health,
            self._metrics,
            namespaces=settings.namespaces,
            seconds=settings.resync_seconds,
            on_kinds=lambda: self._shell.restart(),
        )
        feed = Feed(self._store, self._queue, self._health, self._resync)
        self._shell = Shell(feed, namespaces=settings.namespaces)
        name = f"{FIELD_MANAGER}-{settings.operator_class}" if settings.operator_class else FIELD_MANAGER
        self._leader = Leader(
            Kube(client, seconds=min(LEASE_CALL_SECONDS, settings.request_seconds), tell=self._tell),
            settings.operator_namespace,
            name,
            identity=settings.pod_name,
            clock=time.monotonic,
            on_lead=self._look_at_all,
        )
        self._events = Events(kube, instance=settings.pod_name, clock=time.monotonic)
        self._autoscaler = Autoscaler(
            self._store,
            kube,
            Outlets(decided=self._tell_decision, turned=self._queue.add),
            seconds=settings.scrape_seconds,
            may_write=self._may_work,
            clock=time.time,
        )
        self._others = Others(kube, self._autoscaler, Offer(self._autoscaler, time.time), settings)
        self._workers = self._build_workers(kube)

    def run(self) -> None:
        """Until a signal ends it: first the work, then the Lease, so that the next one begins at once."""
        settings = self._settings
        where = ",".join(settings.namespaces) or "all"
        event(_log, "operator.started", version=VERSION, namespaces=where, pod=settings.pod_name)
        servers = self._serve()
        threads = [self._start("resync", self._resync.run)]
        if settings.leader_election:
            threads.append(self._start("leader", self._leader.compete))
        self._workers.start()
        self._autoscaler.start()
        self._others.start()
        try:
            asyncio.run(self._shell.run())
        finally:
            self._others.stop(STOP_SECONDS)
            self._autoscaler.stop(STOP_SECONDS)
            self._workers.stop(STOP_SECONDS)
            self._stop.set()
            self._resync.soon()
            for thread in threads:
                thread.join(STOP_SECONDS)
            for server in servers:
                server.shutdown()
        event(_log, "operator.stopped")
        if not self._shell.was_told:
            raise OperatorError("a thread that must not end has ended; what it said is above")

    def _start(self, name: str, work: Callable[[threading.Event], None]) -> threading.Thread:
        """A thread without which the process is worth nothing: whatever ends it ends the process."""

        def run() -> None:
            try:
                work(self._stop)
            finally:
                self._shell.end()

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _build_workers(self, kube: Kube) -> Workers:
        drainer = Drainer(lambda: self._master_keys[0])
        writer = Writer(kube, self._store, drainer, may_write=self._may_write, clock=time.monotonic)
        reconciler = Reconciler(
            self._store,
            writer,
            self._events,
            defaults=self._defaults,
            loads=self._autoscaler.loads,
            scaling=lambda key: self._others.scaling(key, self._resync.apis),
            progress=ask_progress,
            clock=time.time,
        )
        count = self._settings.num_workers
        return Workers(self._queue, reconciler.reconcile, self._metrics, may_work=self._may_work, count=count)

    def _serve(self) -> tuple[probes.Server, ...]:
        self._metrics.gauge("queue_length", "services that wait to be looked at", lambda: len(self._queue))
        self._metrics.gauge("services", "InferenceServices that are looked after", lambda: len(self._store.services()))
        self._metrics.gauge("leading", "1 while this process may write", lambda: float(self._may_write()))
        health = {"/livez": self._health.livez, "/readyz": self._health.readyz}
        metrics = {"/metrics": lambda: (200, self._metrics.page())}
        ports = ((self._settings.health_port, health), (self._settings.metrics_port, metrics))
        try:
            return tuple(probes.serve(port, pages) for port, pages in ports)
        except OSError as error:
            raise OperatorError(f"--health-port or --metrics-port: {error.strerror}") from None

    def _may_write(self) -> bool:
        return not self._settings.leader_election or self._leader.is_leading

    def _may_work(self) -> bool:
        """Never from a cache that does not know everything yet."""
        return self._may_write() and not self._health.is_starting

    def _look_at_all(self) -> None:
        for key in self._store.services():
            self._queue.add_for_later(key)

    def _tell_decision(self, service: Service, decision: Decision) -> None:
        self._events.say(service, "ScalingDecided", decision.message, action="Scale")
        way = "up" if decision.to > decision.from_ else "down" if decision.to < decision.from_ else "none"
        key = service.key
        self._metrics.decisions.labels(key.namespace, key.name, decision.role, decision.signal, way).inc()

    def _tell(self, verb: str, status: int, seconds: float) -> None:
        self._metrics.tell_call(verb, status, seconds)
        self._resync.told(status)

    def _defaults(self) -> Defaults:
        return Defaults(
            runtime_image=self._settings.runtime_image,
            cluster_domain=self._settings.cluster_domain,
            apis=self._resync.apis,
            operator_namespace=self._settings.operator_namespace,
            scaler_address=self._settings.scaler_address,
            master_keys=self._master_keys,
        )


def read_master_keys(file: Path) -> tuple[bytes, ...]:
    """The present key and perhaps the one before, a line each. Raises `OperatorError` that says what to do."""
    try:
        lines = [line.strip() for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise OperatorError(f"--master-key-file {file}: {error.strerror}; it holds 32 random letters or more") from None
    keys = tuple(line for line in lines if line)[:2]
    if not keys or min(map(len, keys)) < 32:
        raise OperatorError(f"--master-key-file {file} must hold a key of at least 32 characters")
    return keys
