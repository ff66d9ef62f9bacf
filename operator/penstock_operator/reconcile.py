"""One look at one service: read, desired, plan, apply, status."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

from penstock.logs import event
from penstock_operator.api.parse import parse_service
from penstock_operator.cluster.apply import Writer
from penstock_operator.cluster.events import Events
from penstock_operator.cluster.store import Store
from penstock_operator.desired.build import build_children
from penstock_operator.desired.children import Children, Defaults
from penstock_operator.errors import ApiError, ForeignObject, OperatorError, SpecError
from penstock_operator.names import Key
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import DownloadSeen, LoadSeen, Observed, ScalingSeen
from penstock_operator.plan.actions import Action, Apply, Create, Delete, SetReplicas
from penstock_operator.plan.planner import Plan, plan
from penstock_operator.service import Manifest, Service
from penstock_operator.status.build import build_refused_status, build_scaler_status, build_status

FOREIGN_SECONDS = 30.0  # until we look again whether somebody else's object has gone
MOUNT_SECONDS = 10.0  # that a node may take for what a pod mounts, before we doubt that our Secret is there

_log = logging.getLogger(__name__)


class Reconciler:
    """Brings one service at a time closer to its spec. Keeps nothing that could not be worked out anew."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        events: Events,
        *,
        defaults: Callable[[], Defaults],
        loads: Callable[[Key], Mapping[str, LoadSeen]],
        scaling: Callable[[Key], ScalingSeen | None],
        progress: Callable[[str], DownloadSeen | None],
        clock: Callable[[], float],
    ) -> None:
        """`clock` is the wall clock, in seconds since the epoch; `loads`: what pods said last of their work.

        `scaling`: what the autoscaler has decided. `progress`: what a downloading pod, by its address, says of itself.
        """
        self._store, self._writer, self._events = store, writer, events
        self._defaults, self._loads, self._scaling, self._clock = defaults, loads, scaling, clock
        self._progress = progress
        self._parsed: dict[Key, Service] = {}

    def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again if nothing happens, or None. Raises `ApiError` and `NotLeading`."""
        raw = self._store.service(key)
        if raw is None or "deletionTimestamp" in raw["metadata"]:  # its children go with it: it owns them
            self._parsed.pop(key, None)
            self._writer.forget(key)
            return None
        try:
            service = self._parse(key, raw)
        except SpecError as error:
            self._writer.write_status(raw, build_refused_status(raw, error, self._clock()))
            return None
        observed = self._observe(service)
        mount_wait = self._doubt_what_is_mounted(key, observed)
        children: Children | None = None
        planned: Plan | None = None
        problem: OperatorError | None = None
        try:
            children = build_children(service, self._defaults())
            planned = plan(service, children, observed)
            problem = self._do(service, planned.actions)
        except SpecError as error:
            problem = error
        status = build_status(service, children, observed, planned, problem, observed.now)
        if self._writer.write_status(raw, status):
            self._tell(service, status)
        if planned is not None:
            for role, scaler in observed.scalers.items():
                self._writer.write_status(scaler.manifest, build_scaler_status(service, role, observed, planned))
        if isinstance(problem, ApiError):
            raise problem
        if isinstance(problem, ForeignObject):
            return FOREIGN_SECONDS
        waits = (mount_wait, planned.wake_after if planned is not None else None)
        return min((wait for wait in waits if wait is not None), default=None)

    def _doubt_what_is_mounted(self, key: Key, observed: Observed) -> float | None:
        """A pod that gets no further may wait for a Secret that somebody deleted, which no watch of ours tells.

        Returns the seconds until that can be said of one, or None.
        """
        ages = [observed.now - pod.created for pod in observed.pods if pod.is_mounting and not pod.is_leaving]
        if any(age >= MOUNT_SECONDS for age in ages):
            self._writer.doubt(key)
        return min((MOUNT_SECONDS - age for age in ages if age < MOUNT_SECONDS), default=None)

    def _observe(self, service: Service) -> Observed:
        seen = observe(service, self._store.children(service.key), self._loads(service.key), self._clock())
        download = None if seen.downloader is None else self._progress(seen.downloader.address)
        return dataclasses.replace(seen, scaling=self._scaling(service.key), download=download)

    def _parse(self, key: Key, raw: Manifest) -> Service:
        """Only a new generation has another spec."""
        metadata, known = raw["metadata"], self._parsed.get(key)
        if known is None or (known.uid, known.generation) != (metadata["uid"], metadata["generation"]):
            known = parse_service(raw)
        else:
            known = dataclasses.replace(
                known,
                labels=metadata.get("labels") or {},
                annotations=metadata.get("annotations") or {},
                status=raw.get("status") or {},
            )
        self._parsed[key] = known
        return known

    def _do(self, service: Service, actions: tuple[Action, ...]) -> OperatorError | None:
        """Do them in order. One child that cannot be applied does not stop the others; any other failure ends it."""
        problem: OperatorError | None = None
        for action in actions:
            try:
                if self._writer.do(service, action):
                    self._tell_action(service, action)
            except (ForeignObject, ApiError) as error:
                if isinstance(error, ApiError) and error.is_passing:
                    raise
                problem = problem or error
                if not isinstance(action, Apply):
                    break
        return problem

    def _tell_action(self, service: Service, action: Action) -> None:
        match action:
            case Create(manifest=manifest):
                name = f"{manifest['kind']} {manifest['metadata']['name']}"
                self._events.say(service, "Created", f"created {name}", action="Create")
            case SetReplicas(name=name, replicas=replicas, why=why):
                self._events.say(service, "Scaled", f"{name} to {replicas} pods: {why}", action="Scale")
            case Delete(kind=kind, name=name, why=why):
                self._events.say(service, "Deleted", f"deleted {kind.kind} {name}: {why}", action="Delete")

    def _tell(self, service: Service, status: Manifest) -> None:
        """An Event and a log line for each main condition that turned."""
        before = {one["type"]: one["status"] for one in service.status.get("conditions", ())}
        for condition in status.get("conditions", ()):
            kind, value = condition["type"], condition["status"]
            if kind not in ("Ready", "Stalled") or before.get(kind, "False") == value:
                continue
            reason, message = condition.get("reason", kind), condition.get("message", "")
            event(
                _log, "condition.turned", service=service.key, type=kind, status=value, reason=reason, message=message
            )
            is_bad = (kind == "Ready") != (value == "True")
            self._events.say(service, reason, message or f"{kind} is {value}", action=kind, is_warning=is_bad)
