"""An operator in a cluster in memory: the real observe, desired, plan and status, one turn at a time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from penstock_operator import kinds
from penstock_operator.api.parse import parse_service
from penstock_operator.desired.build import build_children
from penstock_operator.desired.children import Children, Defaults
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import Observed
from penstock_operator.plan.planner import Plan, plan
from penstock_operator.service import Manifest, Service
from penstock_operator.status.build import build_status
from support.small_cluster import Name, SmallCluster

DEFAULTS = Defaults(
    runtime_image="runtime:1",
    cluster_domain="cluster.local",
    apis=frozenset(),
    operator_namespace="penstock-system",
    master_keys=(b"k" * 32,),
)


def build_raw(spec: dict[str, Any], *, generation: int = 1, uid: str = "u-1") -> Manifest:
    """An InferenceService as the API server has it."""
    metadata = {"name": "chat", "namespace": "default", "uid": uid, "generation": generation}
    model = {"model": {"source": "/models/tiny"}}
    kind = {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService"}
    return {**kind, "metadata": metadata, "spec": {**model, **spec}}


@dataclass(slots=True)
class SmallOperator:
    """It may die after any action, if `dies` says so; it keeps nothing between two turns but the status it wrote.

    `lag`: turns by which its watches are behind; what it wrote itself it knows.
    """

    cluster: SmallCluster
    spec: dict[str, Any]
    dies: random.Random | None = None
    generation: int = 1
    status: Manifest | None = None
    defaults: Defaults = DEFAULTS
    lag: int = 0
    uid: str = "u-1"
    _built: tuple[int, Children] | None = None
    _views: list[dict[Name, Manifest]] = field(default_factory=list)

    def change(self, **spec: Any) -> None:
        """Somebody edits the InferenceService."""
        self.spec = {**self.spec, **spec}
        self.generation += 1

    @property
    def service(self) -> Service:
        """As it is now."""
        raw = build_raw(self.spec, generation=self.generation, uid=self.uid)
        return parse_service({**raw, "status": self.status or {}})

    def look(self) -> tuple[Children, Observed, Plan]:
        """What a turn would work with."""
        service = self.service
        if self._built is None or self._built[0] != self.generation:
            self._built = self.generation, build_children(service, self.defaults)
        children = self._built[1]
        observed = observe(service, self._view(), self.cluster.loads(), self.cluster.now)
        return children, observed, plan(service, children, observed)

    def turn(self) -> Plan:
        """One reconcile."""
        service = self.service
        children, observed, planned = self.look()
        actions = planned.actions
        if self.dies is not None and self.dies.random() < 0.3:
            actions = actions[: self.dies.randrange(len(actions) + 1)]
        for action in actions:
            self.cluster.do(action)
        if actions == planned.actions:
            self.status = build_status(service, children, observed, planned, None, self.cluster.now)
        return planned

    def _view(self) -> dict[Name, Manifest]:
        """Pods and what controllers say are old news, marks and numbers of pods are not."""
        now = self.cluster.view()
        self._views = [*self._views[-self.lag :], now] if self.lag else [now]
        then, seen = self._views[0], {}
        for name, one in now.items():
            if name[0] != kinds.POD:
                status = then.get(name, {}).get("status")
                seen[name] = {**one, "status": status} if status is not None else one
        for name, one in then.items():
            if name[0] == kinds.POD:
                marks = now.get(name, one)["metadata"].get("annotations", {})
                seen[name] = {**one, "metadata": {**one["metadata"], "annotations": marks}}
        return seen

    def condition(self, type: str) -> Manifest:
        """Of the status that was written last."""
        assert self.status is not None
        return next(one for one in self.status["conditions"] if one["type"] == type)

    def settle(self, *, num_turns: int = 400) -> int:
        """Turns until the status says that all is done."""
        for count in range(num_turns):
            self.turn()
            self.cluster.tick()
            if self.status is not None and self.is_done():
                return count
        raise AssertionError(f"not done after {num_turns} turns: {self.cluster.wanted()} {self.status}")

    def run(self, num_turns: int) -> None:
        """So many turns."""
        for _ in range(num_turns):
            self.turn()
            self.cluster.tick()

    def scale(self, role: str, replicas: int) -> None:
        """As `kubectl scale rolescaler` does."""
        scaler = self.cluster.objects[kinds.ROLE_SCALER, f"chat-{role}"]
        scaler["spec"] = {**scaler["spec"], "replicas": replicas}

    def is_done(self) -> bool:
        """True if the status says that all is done, of the newest spec."""
        status = self.status
        assert status is not None
        values = {one["type"]: one["status"] for one in status["conditions"]}
        return status["observedGeneration"] == self.generation and values["Reconciling"] == values["Stalled"] == "False"
