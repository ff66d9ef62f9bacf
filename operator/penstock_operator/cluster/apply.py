"""Does what a plan wants done, and remembers what was applied so that nothing is applied twice in vain."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from penstock.logs import event
from penstock_operator.cluster.drainer import Drainer
from penstock_operator.cluster.kube import Kube
from penstock_operator.cluster.store import Name, Store, fingerprint_of
from penstock_operator.errors import ApiError, ForeignObject, NotLeading
from penstock_operator.kinds import SECRET, Kind, kind_of
from penstock_operator.names import Key
from penstock_operator.plan.actions import Action, Annotate, Apply, Create, Delete, Drain, SetReplicas
from penstock_operator.service import Manifest, Service, controller_of

UNSEEN_SECONDS = 3600.0  # a Secret is never read, so it is applied again after this time

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was applied last under a name, and what came of it."""

    digest: int  # of the manifest
    fingerprint: int  # of the object that the API server answered with
    at: float  # seconds, monotonic


class Writer:
    """The only one who writes. A service is worked on by one thread at a time, so what is kept per service is its."""

    def __init__(
        self, kube: Kube, store: Store, drainer: Drainer, *, may_write: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        """`may_write` is asked before each write. `clock` is monotonic."""
        self._kube, self._store, self._drainer = kube, store, drainer
        self._may_write, self._clock = may_write, clock
        self._applied: dict[Key, dict[Name, Applied]] = {}

    def do(self, service: Service, action: Action) -> bool:
        """Do it; False if nothing was to be done. Raises `ApiError`, `ForeignObject`, `NotLeading`."""
        match action:
            case Apply(manifest=manifest, uid=uid):
                return self._apply(service, manifest, uid)
            case Create(manifest=manifest):
                self._create(service, manifest)
            case SetReplicas(kind=kind, name=name, replicas=replicas, why=why):
                self._check()
                scale = self._kube.scale(kind, service.key.namespace, name, replicas)
                self._store.scaled(service.key, (kind, name), replicas, scale["metadata"]["resourceVersion"])
                event(_log, "replicas.set", service=service.key, object=name, replicas=replicas, why=why)
            case Annotate(kind=kind, name=name, uid=uid, annotations=annotations):
                self._check()
                patch = {"metadata": {"uid": uid, "annotations": annotations}}
                self._keep(kind, self._kube.merge(kind, service.key.namespace, name, patch))
            case Drain():
                self._check()
                self._drainer.tell(service.uid, action)
            case Delete(kind=kind, name=name, uid=uid, why=why):
                self._check()
                self._kube.delete(kind, service.key.namespace, name, uid=uid)
                event(_log, "object.deleted", service=service.key, kind=kind.kind, object=name, why=why)
        return True

    def write_status(self, there: Manifest, status: Manifest) -> bool:
        """Say how an object that is there is doing; False if that is what it says already."""
        if status == there.get("status"):
            return False
        self._check()
        metadata = {word: there["metadata"][word] for word in ("namespace", "name", "uid")}
        said = {"apiVersion": there["apiVersion"], "kind": there["kind"], "metadata": metadata, "status": status}
        self._keep(kind_of(there), self._kube.apply_status(said))
        return True

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._applied.pop(key, None)

    def _apply(self, service: Service, manifest: Manifest, uid: str | None) -> bool:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        digest = hash(msgspec.json.encode(manifest, order="deterministic"))
        memory = self._applied.setdefault(service.key, {})
        if self._is_unchanged(service.key, (kind, name), digest, memory.get((kind, name))):
            return False
        self._check()
        if uid is None and kind != SECRET:  # the Secret's name has our UID in it, and we have no right to look
            uid = self._uid_of_ours(service, kind, name)
        metadata = manifest["metadata"] if uid is None else {**manifest["metadata"], "uid": uid}
        answer = self._kube.apply({**manifest, "metadata": metadata})
        memory[kind, name] = Applied(digest=digest, fingerprint=fingerprint_of(answer), at=self._clock())
        self._keep(kind, answer)
        event(_log, "object.applied", level=logging.DEBUG, service=service.key, kind=kind.kind, object=name)
        return True

    def _is_unchanged(self, key: Key, name: Name, digest: int, applied: Applied | None) -> bool:
        if applied is None or applied.digest != digest:
            return False
        if name[0] == SECRET:
            return self._clock() - applied.at < UNSEEN_SECONDS
        stored = self._store.child(key, name)
        return stored is not None and stored.fingerprint == applied.fingerprint

    def _uid_of_ours(self, service: Service, kind: Kind, name: str) -> str | None:
        """Look before the first apply of a name: forced apply would take over what is somebody else's."""
        try:
            there = self._kube.get(kind, service.key.namespace, name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if controller_of(there).get("uid") != service.uid:
            raise ForeignObject(
                f"{kind.kind} {name} exists and does not belong to this InferenceService: delete it,"
                " or give the InferenceService another name"
            )
        uid: str = there["metadata"]["uid"]
        return uid

    def _create(self, service: Service, manifest: Manifest) -> None:
        self._check()
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        try:
            self._keep(kind, self._kube.create(manifest))
        except ApiError as error:
            uid = self._uid_of_ours(service, kind, name) if error.status == 409 else None
            if uid is None:
                raise
            self._regain(service, manifest, uid)
        else:
            event(_log, "object.created", service=service.key, kind=kind.kind, object=name)

    def _regain(self, service: Service, manifest: Manifest, uid: str) -> None:
        """It is there and ours, and no watch tells of it: somebody took the label away by which watches select."""
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        labels = {"metadata": {"uid": uid, "labels": manifest["metadata"]["labels"]}}
        self._keep(kind, self._kube.merge(kind, service.key.namespace, name, labels))
        event(_log, "object.regained", service=service.key, kind=kind.kind, object=name)

    def _keep(self, kind: Kind, answer: Manifest) -> None:
        """Read our own writes: the next plan must know whom this one marked, or it marks another."""
        if kind != SECRET:
            self._store.put(kind, answer)

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeading("this operator does not hold the Lease")
