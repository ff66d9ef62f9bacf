"""Does what a plan wants done, and remembers what was applied so that nothing is applied twice in vain."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from penstock.logs import event
from penstock_operator.cluster.applied import Applied, digest_of, is_as_applied, marked
from penstock_operator.cluster.drainer import Drainer
from penstock_operator.cluster.kube import Kube
from penstock_operator.cluster.store import Name, Store, fingerprint_of, is_ours_alone
from penstock_operator.errors import ApiError, ForeignObject, NotLeading
from penstock_operator.kinds import SECRET, Kind, kind_of
from penstock_operator.names import Key
from penstock_operator.plan.actions import Action, Annotate, Apply, Create, Delete, Drain, SetReplicas
from penstock_operator.service import Manifest, Service, controller_of

UNSEEN_SECONDS = 3600.0  # a Secret is never read, so it is applied again after this time
DOUBT_SECONDS = 30.0  # and after this time if a pod waits for what it mounts

_log = logging.getLogger(__name__)


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
        if text_of(status) == text_of(there.get("status") or {}):
            return False
        self._check()
        metadata = {word: there["metadata"][word] for word in ("namespace", "name", "uid")}
        said = {"apiVersion": there["apiVersion"], "kind": there["kind"], "metadata": metadata, "status": status}
        self._keep(kind_of(there), self._kube.apply_status(said))
        return True

    def doubt(self, key: Key) -> None:
        """A pod of the service waits for what it mounts: its Secret may be gone, so the next apply is no vain one."""
        memory = self._applied.get(key, {})
        for name, applied in list(memory.items()):
            if name[0] == SECRET and self._clock() - applied.at >= DOUBT_SECONDS:
                del memory[name]

    def forget(self, key: Key) -> None:
        """The service is gone."""
        self._applied.pop(key, None)

    def _apply(self, service: Service, manifest: Manifest, uid: str | None) -> bool:
        kind, name = kind_of(manifest), manifest["metadata"]["name"]
        memory = self._applied.setdefault(service.key, {})
        digest = digest_of(manifest)
        if self._is_unchanged(service.key, (kind, name), digest, memory.get((kind, name))):
            return False
        stored = self._store.child(service.key, (kind, name))
        if (kind, name) not in memory and stored is not None and is_as_applied(stored, manifest, digest):
            memory[kind, name] = Applied(digest=digest, fingerprint=stored.fingerprint, at=self._clock())
            return False
        self._check()
        if uid is None and kind != SECRET:  # the Secret's name has our UID in it, and we have no right to look
            uid = self._uid_of_ours(service, kind, name)
        answer = self._send(marked(manifest, digest), uid, is_new=uid is None and kind != SECRET)
        memory[kind, name] = Applied(digest=digest, fingerprint=fingerprint_of(answer), at=self._clock())
        self._keep(kind, answer)
        event(_log, "object.applied", level=logging.DEBUG, service=service.key, kind=kind.kind, object=name)
        return True

    def _send(self, manifest: Manifest, uid: str | None, *, is_new: bool) -> Manifest:
        """Apply it. What somebody else made after we looked is not taken over, and what we added to it goes again."""
        metadata = manifest["metadata"]
        if not is_new:
            return self._kube.apply(manifest if uid is None else {**manifest, "metadata": {**metadata, "uid": uid}})
        answer = self._kube.apply(manifest, is_forced=False)
        if is_ours_alone(answer):
            return answer
        whose = {word: answer["metadata"][word] for word in ("namespace", "name", "uid")}
        left = self._kube.apply({"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": whose})
        version = left["metadata"]["resourceVersion"]  # until which it looks to watches as if it were ours
        self._store.remove(kind_of(answer), {**answer, "metadata": {**answer["metadata"], "resourceVersion": version}})
        raise ApiError(409, f"somebody else made {manifest['kind']} {metadata['name']} just now", reason="Conflict")

    def _is_unchanged(self, key: Key, name: Name, digest: str, applied: Applied | None) -> bool:
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
            raise ForeignObject(kind.kind, name)
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


def text_of(status: Manifest) -> bytes:
    """As JSON, conditions without their order: what the API server answers has no tuples, and an order of its own."""
    conditions = {one["type"]: one for one in status.get("conditions", ())}
    return msgspec.json.encode({**status, "conditions": conditions}, order="deterministic")
