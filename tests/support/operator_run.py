"""The operator's own parts over a `MemoryApi`, worked one key at a time by the test's thread."""

from __future__ import annotations

import yaml

from penstock_operator.cluster.apply import Writer
from penstock_operator.cluster.events import Events
from penstock_operator.cluster.feed import Feed
from penstock_operator.cluster.resync import Resync, selector_of
from penstock_operator.cluster.store import Store
from penstock_operator.desired.children import Defaults
from penstock_operator.health import Health
from penstock_operator.keyed_queue import KeyedQueue
from penstock_operator.kinds import EVENT, INFERENCE_SERVICE, Kind
from penstock_operator.metrics import Metrics
from penstock_operator.names import Key
from penstock_operator.plan.actions import Drain
from penstock_operator.reconcile import Reconciler
from penstock_operator.workers import Workers
from support.memory_api import MemoryApi
from support.memory_cluster import MemoryCluster

MASTER_KEY = b"m" * 32
MINIMAL = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat, namespace: default}
spec:
  model: {source: hf://org/model}
  decode: {replicas: 2}
"""


class OperatorRun:
    """An operator, its cluster and its clock; `restart` makes a new operator over the same cluster."""

    def __init__(self, *, optional: tuple[Kind, ...] = ()) -> None:
        self.now = 1_800_000_000.0
        self.api = MemoryApi(optional=optional)
        self.api.now = lambda: self.now
        self.cluster = MemoryCluster(self.api)
        self.may_write = True
        self.drains: list[Drain] = []
        self.restart()

    def restart(self) -> None:
        self.api.watchers.clear()
        self.metrics, self.health = Metrics(), Health(self._clock)
        self.store, self.queue = Store(), KeyedQueue(self._clock)
        self.writer = Writer(
            self.api,
            self.store,
            self,
            may_write=lambda: self.may_write,
            clock=self._clock,
        )
        self.reconciler = Reconciler(
            self.store,
            self.writer,
            Events(self.api, instance="me", clock=self._clock),
            defaults=self._defaults,
            loads=lambda key: {},
            scaling=lambda key: None,
            progress=lambda address: None,
            clock=self._clock,
        )
        self.resync = Resync(
            self.api,
            self.store,
            self.queue,
            self.health,
            self.metrics,
            namespaces=(),
            seconds=600.0,
            on_kinds=lambda: None,
        )
        self.workers = Workers(
            self.queue, self.reconciler.reconcile, self.metrics, may_work=lambda: self.may_write, count=1
        )
        self.feed = Feed(self.store, self.queue, self.health, self.resync)
        assert self.resync.turn()
        self.api.watchers.append(self._seen)

    def tell(self, uid: str, drain: Drain) -> None:
        """Pods of this cluster have no processes that could hear it."""
        self.drains.append(drain)

    def create(self, text: str = MINIMAL, **metadata: object) -> Key:
        manifest = yaml.safe_load(text)
        manifest["metadata"] = {"namespace": "default", **manifest["metadata"], **metadata}
        manifest["status"] = {"observedGeneration": -1}
        self.api.post(manifest)
        return Key(manifest["metadata"]["namespace"], manifest["metadata"]["name"])

    def edit(self, key: Key, spec: dict) -> None:
        self.api.update(INFERENCE_SERVICE, key.namespace, key.name, {"spec": spec})

    def work(self, most: int = 1000) -> int:
        """Look at whatever is due; returns how many looks that took."""
        for looks in range(most):
            if (key := self.queue.take(0.0)) is None:
                return looks
            self.workers.look(key)
        raise AssertionError(f"not done after {most} looks")

    def settle(self, steps: int = 12, seconds: float = 3.0) -> None:
        """Controllers, time and the operator by turns."""
        for _ in range(steps):
            self.work()
            self.cluster.step()
            self.now += seconds
        self.work()

    def status(self, key: Key) -> dict:
        return self.api.find(INFERENCE_SERVICE, key.name, key.namespace)["status"]

    def condition(self, key: Key, kind: str) -> dict:
        return next(one for one in self.status(key)["conditions"] if one["type"] == kind)

    def events(self) -> list[tuple[str, str]]:
        return [(one["reason"], one["note"]) for one in self.api.all(EVENT)]

    def writes(self) -> list[tuple[str, str, str]]:
        """Calls so far that were no reads; forgotten after this."""
        writes = [call for call in self.api.calls if call[0] not in ("get", "list")]
        self.api.calls.clear()
        return writes

    def _seen(self, what: str, kind: Kind, manifest: dict) -> None:
        if kind not in self.feed.kinds:
            return
        label, _, value = selector_of(kind).partition("=")
        is_selected = not label or manifest["metadata"].get("labels", {}).get(label) == value
        self.feed.tell(kind, what if is_selected else "DELETED", manifest)  # as a watch with a selector tells it

    def _clock(self) -> float:
        return self.now

    def _defaults(self) -> Defaults:
        return Defaults(
            runtime_image="penstock-runtime-cpu:test",
            cluster_domain="cluster.local",
            apis=self.resync.apis,
            operator_namespace="penstock-system",
            master_keys=(MASTER_KEY,),
        )
