"""What the API server told us: services and their children, as the watches bring them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from penstock_operator.kinds import (
    AUTOSCALER,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    LEADER_WORKER_SET,
    POD,
    ROLE_SCALER,
    SCALED_OBJECT,
    Kind,
)
from penstock_operator.names import BOTH, DECODE, FIELD_MANAGER, PREFILL, SERVICE, Key
from penstock_operator.service import Manifest

# Thousands of objects are kept, so only what is looked at: this metadata, these parts of the spec, the whole status.
METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
)
SPEC: dict[Kind, tuple[str, ...]] = {
    DEPLOYMENT: ("replicas", "paused"),
    LEADER_WORKER_SET: ("replicas",),
    POD: ("nodeName",),
    AUTOSCALER: ("scaleTargetRef",),
    SCALED_OBJECT: ("scaleTargetRef",),
}
NEVER_COMPARED = (INFERENCE_SERVICE, DEPLOYMENT, POD)  # made once, or by others
SCALERS = (AUTOSCALER, SCALED_OBJECT)  # other people's objects that may scale ours
WHOLE_SPEC = (INFERENCE_SERVICE, ROLE_SCALER)

Name = tuple[Kind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object."""

    manifest: Manifest
    fingerprint: int  # of everything that is not status: others' changes show in it
    text: bytes  # everything that is not status, as JSON, if nobody but us wrote it; else empty


@dataclass(slots=True)
class Family:
    """A service, or what is left of one, and everything that bears its label."""

    service: Stored | None = None
    children: dict[Name, Stored] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What a list of everything knew better than the watches."""

    keys: tuple[Key, ...]  # services whose objects were not what the store had
    num_missed: int  # objects that are newer than any watch has told; not those that are gone


class Store:
    """A cache by service, for many threads. Older news never replaces newer."""

    def __init__(self, operator_class: str = "") -> None:
        """Services of another class are left out."""
        self._class = operator_class
        self._lock = threading.Lock()
        self._families: dict[Key, Family] = {}
        self._gone: dict[str, int] = {}  # UIDs that were deleted -> version; lists that are older may still have them

    def services(self) -> list[Key]:
        """Every service that is there."""
        with self._lock:
            return [key for key, family in self._families.items() if family.service is not None]

    def service(self, key: Key) -> Manifest | None:
        """The InferenceService as it is, or None."""
        with self._lock:
            family = self._families.get(key)
            return None if family is None or family.service is None else family.service.manifest

    def children(self, key: Key) -> dict[Name, Manifest]:
        """What bears the service's label, whoever owns it, and who scales it; the manifests are not to be changed."""
        with self._lock:
            family = self._families.get(key)
            return {} if family is None else {name: stored.manifest for name, stored in family.children.items()}

    def child(self, key: Key, name: Name) -> Stored | None:
        """One of them, or None."""
        with self._lock:
            family = self._families.get(key)
            return None if family is None else family.children.get(name)

    def put(self, kind: Kind, manifest: Manifest) -> Key | None:
        """Keep it. The service that should be looked at therefore, or None if nothing of ours is new."""
        if (key := self._key_of(kind, manifest)) is None:
            return None
        stored = stored_of(kind, manifest)
        with self._lock:
            if self._gone.get(manifest["metadata"]["uid"], -1) >= version_of(manifest):  # news from before its end
                return None
            return key if self._put(key, kind, stored) else None

    def remove(self, kind: Kind, manifest: Manifest) -> Key | None:
        """It is gone. The service that should be looked at therefore, or None."""
        if (key := self._key_of(kind, manifest)) is None:
            return None
        metadata = manifest["metadata"]
        with self._lock:
            self._gone[metadata["uid"]] = version_of(manifest)
            return key if self._remove(key, (kind, metadata["name"]), metadata["uid"]) else None

    def scaled(self, key: Key, name: Name, replicas: int, version: str) -> None:
        """A write of replicas was answered with this version; its controller has yet to see it."""
        with self._lock:
            family = self._families.get(key)
            stored = family.children.get(name) if family is not None else None
            if family is None or stored is None or int(version) <= version_of(stored.manifest):
                return
            metadata, spec = stored.manifest["metadata"], stored.manifest.get("spec", {})
            generation = metadata.get("generation", 0) + (spec.get("replicas") != replicas)
            manifest = {
                **stored.manifest,
                "metadata": {**metadata, "resourceVersion": version, "generation": generation},
                "spec": {**spec, "replicas": replicas},
            }
            family.children[name] = dataclasses.replace(stored, manifest=manifest)

    def drop(self, kind: Kind) -> None:
        """The cluster has no such kind any more, and so nothing of it, whether a watch told or not."""
        with self._lock:
            for key, name, stored in list(self._all(kind)):
                self._remove(key, name, stored.manifest["metadata"]["uid"])

    def replace(self, kind: Kind, namespace: str | None, items: Iterable[Manifest], version: str) -> Differences:
        """A list of everything of a kind at that version: correct what differs, and say what did."""
        changed: set[Key] = set()
        num_missed, listed, now = 0, set(), int(version)
        for manifest in items:
            metadata = manifest["metadata"]
            listed.add(metadata["uid"])
            if key := self.put(kind, manifest):
                changed.add(key)
                num_missed += 1
        with self._lock:
            for key, name, stored in list(self._all(kind)):
                metadata = stored.manifest["metadata"]
                is_here = namespace in (None, metadata["namespace"])
                if is_here and metadata["uid"] not in listed and version_of(stored.manifest) <= now:
                    self._remove(key, name, metadata["uid"])
                    changed.add(key)
            self._gone = {uid: gone for uid, gone in self._gone.items() if gone > now}
        return Differences(keys=tuple(changed), num_missed=num_missed)

    def _put(self, key: Key, kind: Kind, stored: Stored) -> bool:
        family = self._families.setdefault(key, Family())
        name = (kind, stored.manifest["metadata"]["name"])
        old = family.service if kind == INFERENCE_SERVICE else family.children.get(name)
        if old is not None and version_of(stored.manifest) <= version_of(old.manifest):
            return False
        if kind == INFERENCE_SERVICE:
            family.service = stored
        else:
            family.children[name] = stored
        return True

    def _remove(self, key: Key, name: Name, uid: str) -> bool:
        family = self._families.get(key)
        if family is None:
            return False
        stored = family.service if name[0] == INFERENCE_SERVICE else family.children.get(name)
        if stored is None or stored.manifest["metadata"]["uid"] != uid:
            return False
        if name[0] == INFERENCE_SERVICE:
            family.service = None
        else:
            del family.children[name]
        if family.service is None and not family.children:
            del self._families[key]
        return True

    def _all(self, kind: Kind) -> Iterable[tuple[Key, Name, Stored]]:
        for key, family in self._families.items():
            if kind == INFERENCE_SERVICE:
                if family.service is not None:
                    yield key, (kind, key.name), family.service
            else:
                yield from ((key, name, stored) for name, stored in family.children.items() if name[0] == kind)

    def _key_of(self, kind: Kind, manifest: Manifest) -> Key | None:
        metadata = manifest["metadata"]
        if kind == INFERENCE_SERVICE:
            is_ours = operator_class_of(metadata) == self._class
            return Key(metadata["namespace"], metadata["name"]) if is_ours else None
        if kind in SCALERS:
            target = manifest.get("spec", {}).get("scaleTargetRef", {})
            name, _, role = target.get("name", "").rpartition("-")
            is_ours = target.get("kind") == ROLE_SCALER.kind and role in (BOTH, PREFILL, DECODE)
            return Key(metadata["namespace"], name) if is_ours and name else None
        name = metadata.get("labels", {}).get(SERVICE)
        return Key(metadata["namespace"], name) if name else None


def operator_class_of(metadata: Mapping[str, dict[str, str]]) -> str:
    """Which operator an InferenceService is for."""
    return metadata.get("annotations", {}).get("penstock.dev/operator-class", "")


def version_of(manifest: Manifest) -> int:
    """Resource versions grow with time: since Kubernetes 1.35 that is promised, and it was so before."""
    return int(manifest["metadata"]["resourceVersion"])


def trimmed(kind: Kind, manifest: Manifest) -> Manifest:
    """What is worth keeping of an object."""
    metadata = manifest["metadata"]
    kept = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {word: metadata[word] for word in METADATA if word in metadata},
    }
    spec = manifest.get("spec")
    if isinstance(spec, dict):
        words = tuple(spec) if kind in WHOLE_SPEC else SPEC.get(kind, ())
        kept["spec"] = {word: spec[word] for word in words if word in spec}
    if "status" in manifest:
        kept["status"] = manifest["status"]
    return kept


def stored_of(kind: Kind, manifest: Manifest) -> Stored:
    """What is kept of an object as the API server has it."""
    text = _text_of(manifest)
    is_ours = kind not in NEVER_COMPARED and is_ours_alone(manifest)
    return Stored(manifest=trimmed(kind, manifest), fingerprint=hash(text), text=text if is_ours else b"")


def fingerprint_of(manifest: Manifest) -> int:
    """A number that stays while nobody changes anything but the status."""
    return hash(_text_of(manifest))


def _text_of(manifest: Manifest) -> bytes:
    unwatched = ("resourceVersion", "generation", "managedFields")
    metadata = {word: value for word, value in manifest["metadata"].items() if word not in unwatched}
    rest = {word: value for word, value in manifest.items() if word not in ("status", "apiVersion", "kind")}
    return msgspec.json.encode({**rest, "metadata": metadata}, order="deterministic")


def is_ours_alone(manifest: Manifest) -> bool:
    """True if nobody else set anything but parts such as status and scale. Who only took something away is not seen."""
    entries = [one for one in manifest["metadata"].get("managedFields", ()) if not one.get("subresource")]
    return bool(entries) and all(one.get("manager") == FIELD_MANAGER for one in entries)
