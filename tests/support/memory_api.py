"""An API server in memory, with the methods of `Kube` and the semantics that the operator relies on.

Resource versions, UIDs, generations, server-side apply with ownership of fields by manager, 404 and 409, preconditions,
garbage collection by owner, /scale, labels in lists, and a watch feed. Not here: schemas, admission, rights.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from penstock_operator.errors import ApiError
from penstock_operator.kinds import ALL, OPTIONAL, Kind, kind_of
from penstock_operator.names import FIELD_MANAGER

Path = tuple[str, ...]
Watcher = Callable[[str, Kind, dict], None]

LIST_KEYS = ("name", "type", "containerPort", "mountPath", "ip")  # by which lists of objects merge, as far as we need


class MemoryApi:
    """All methods raise `ApiError` as `Kube` does; `is_away` makes every call fail without an answer."""

    def __init__(self, *, optional: tuple[Kind, ...] = ()) -> None:
        self._lock = threading.RLock()
        self._objects: dict[tuple[Kind, str, str], dict] = {}
        self._managers: dict[str, dict[str, set[Path]]] = {}  # UID -> manager -> leaves that it owns
        self._versions, self._uids = itertools.count(1), itertools.count(1)
        self._version = 0
        self.kinds = tuple(kind for kind in ALL if kind not in OPTIONAL or kind in optional)
        self.watchers: list[Watcher] = []
        self.calls: list[tuple[str, str, str]] = []  # verb, kind, name
        self.is_away = False
        self.refuse: Callable[[str, Kind, str], ApiError | None] = lambda verb, kind, name: None
        self.now: Callable[[], float] = lambda: datetime.datetime.now(datetime.UTC).timestamp()

    # What Kube has.

    def get(self, kind, namespace, name):
        with self._call("get", kind, name):
            return copy.deepcopy(self._there(kind, namespace, name))

    def list(self, kind, namespace=None, selector=""):
        with self._call("list", kind, ""):
            wanted = [word.split("=") for word in selector.split(",") if word]
            found = [
                copy.deepcopy(one)
                for (its, where, _), one in self._objects.items()
                if its == kind
                and namespace in (None, where)
                and all(one["metadata"].get("labels", {}).get(name) == value for name, value in wanted)
            ]
            return found, str(self._version)

    def create(self, manifest, manager=FIELD_MANAGER):
        kind, metadata = kind_of(manifest), dict(manifest["metadata"])
        if "generateName" in metadata:
            metadata["name"] = f"{metadata.pop('generateName')}{next(self._uids):05}"
        with self._call("create", kind, metadata["name"]):
            key = (kind, metadata["namespace"], metadata["name"])
            if key in self._objects:
                raise ApiError(409, f"{kind.plural} {metadata['name']!r} already exists", reason="AlreadyExists")
            return self._insert(key, {**manifest, "metadata": metadata}, f"{manager}:Update")

    def apply(self, manifest, manager=FIELD_MANAGER, *, is_forced=True):
        with self._call("apply", kind_of(manifest), manifest["metadata"]["name"]):
            without = {word: value for word, value in manifest.items() if word != "status"}
            return self._apply(without, f"{manager}:Apply", is_forced)

    def apply_status(self, manifest, manager=FIELD_MANAGER):
        kind, metadata = kind_of(manifest), manifest["metadata"]
        with self._call("apply_status", kind, metadata["name"]):
            self._there(kind, metadata["namespace"], metadata["name"])
            words = ("apiVersion", "kind", "metadata", "status")
            return self._apply({word: manifest[word] for word in words}, f"{manager}:Apply:status")

    def merge(self, kind, namespace, name, patch):
        with self._call("patch", kind, name):
            there = self._there(kind, namespace, name)
            for word in ("uid", "resourceVersion"):
                if (expected := patch.get("metadata", {}).get(word)) not in (None, there["metadata"][word]):
                    raise ApiError(409, f"{word} {expected} is not {there['metadata'][word]}", reason="Conflict")
            return self._store(kind, there, merged(there, patch))

    def scale(self, kind, namespace, name, replicas):
        with self._call("scale", kind, name):
            there = self._there(kind, namespace, name)
            new = self._store(kind, there, merged(there, {"spec": {"replicas": replicas}}))
            self._managers[new["metadata"]["uid"]].setdefault("scale", set()).add(("spec", "replicas"))
            words = ("name", "namespace", "uid", "resourceVersion")
            return {"metadata": {word: new["metadata"][word] for word in words}, "spec": {"replicas": replicas}}

    def replace(self, manifest):
        kind, metadata = kind_of(manifest), manifest["metadata"]
        with self._call("update", kind, metadata["name"]):
            there = self._there(kind, metadata["namespace"], metadata["name"])
            if metadata.get("resourceVersion") not in (None, there["metadata"]["resourceVersion"]):
                raise ApiError(409, "the object has been modified", reason="Conflict")
            new = {**copy.deepcopy(manifest), "metadata": {**there["metadata"], **metadata}}
            return self._store(kind, there, new)

    def delete(self, kind, namespace, name, *, uid):
        with self._call("delete", kind, name):
            there = self._objects.get((kind, namespace, name))
            if there is None:
                return
            if there["metadata"]["uid"] != uid:
                raise ApiError(409, f"uid {uid} is not {there['metadata']['uid']}", reason="Conflict")
            self._remove(kind, there)

    def resources(self, api_version):
        if self.is_away:
            raise ApiError(0, "the API server did not answer")
        return frozenset(kind.plural for kind in self.kinds if kind.api_version == api_version)

    # What others do: users, controllers, kubelets.

    def update(self, kind: Kind, namespace: str, name: str, patch: dict) -> dict:
        """A merge patch by somebody else, status included; it is never refused and not among `calls`."""
        with self._lock:
            there = self._there(kind, namespace, name)
            if said := {word: value for word, value in patch.items() if word != "status"}:
                gone, set_by = set(leaves(said)), self._managers[there["metadata"]["uid"]]
                for other, paths in set_by.items():
                    set_by[other] = {path for path in paths if path not in gone}
                others = {path for path in gone if _value(said, path) is not None}
                set_by["other:Update"] = set_by.get("other:Update", set()) | others
            return self._store(kind, there, merged(there, patch))

    def post(self, manifest: dict) -> dict:
        """A POST by somebody else."""
        with self._lock:
            metadata = manifest["metadata"]
            return self._insert((kind_of(manifest), metadata["namespace"], metadata["name"]), manifest, "other:Update")

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        """A deletion by somebody else, with everything below."""
        with self._lock:
            self._remove(kind, self._there(kind, namespace, name))

    def all(self, kind: Kind) -> list[dict]:
        """Every object of a kind, by name."""
        with self._lock:
            found = [copy.deepcopy(one) for (its, _, _), one in self._objects.items() if its == kind]
        return sorted(found, key=lambda one: one["metadata"]["name"])

    def find(self, kind: Kind, name: str, namespace: str = "default") -> dict | None:
        """One object, or None."""
        with self._lock:
            return copy.deepcopy(self._objects.get((kind, namespace, name)))

    # How.

    def _call(self, verb: str, kind: Kind, name: str) -> threading.RLock:
        if self.is_away:
            raise ApiError(0, "the API server did not answer")
        if (error := self.refuse(verb, kind, name)) is not None:
            raise error
        self.calls.append((verb, kind.kind, name))
        return self._lock

    def _there(self, kind: Kind, namespace: str, name: str) -> dict:
        there = self._objects.get((kind, namespace, name))
        if there is None:
            raise ApiError(404, f"{kind.plural} {name!r} not found", reason="NotFound")
        return there

    def _insert(self, key: tuple[Kind, str, str], manifest: dict, manager: str) -> dict:
        created = datetime.datetime.fromtimestamp(self.now(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        new = copy.deepcopy(manifest)
        new["metadata"] |= {"uid": f"uid-{next(self._uids)}", "creationTimestamp": created, "generation": 1}
        self._managers[new["metadata"]["uid"]] = {manager: set(leaves(manifest))}
        return self._put(key[0], new, "ADDED")

    def _apply(self, manifest: dict, manager: str, is_forced: bool = True) -> dict:
        kind, metadata = kind_of(manifest), manifest["metadata"]
        key, uid = (kind, metadata["namespace"], metadata["name"]), metadata.get("uid")
        there = self._objects.get(key)
        if uid is not None and (there is None or there["metadata"]["uid"] != uid):
            raise ApiError(409, f"uid mismatch: {uid}", reason="Conflict")
        if there is None:
            return self._insert(key, manifest, manager)
        owned, managers = set(leaves(manifest)), self._managers[there["metadata"]["uid"]]
        before = managers.get(manager, set())
        theirs = set().union(*(paths for other, paths in managers.items() if other != manager)) & owned
        if not is_forced and any(_value(there, path) != _value(manifest, path) for path in theirs):
            raise ApiError(409, f"Apply failed with {len(theirs)} conflicts", reason="Conflict")
        for other, paths in managers.items():  # by force: what was others' with another value is ours now
            if other != manager:
                managers[other] = {
                    path for path in paths if path not in owned or _value(there, path) == _value(manifest, path)
                }
        others = set().union(*(paths for other, paths in managers.items() if other != manager))
        new = copy.deepcopy(there)
        for path in sorted(before - owned - others, key=_is_key):  # an item's key last: it is found by it
            _drop(new, path)
        for path in owned:
            _write(new, path, _value(manifest, path))
        managers[manager] = owned
        references = [one for one in new["metadata"].get("ownerReferences", ()) if one.get("controller")]
        if len(references) > 1:
            raise ApiError(422, "only one reference can have controller set to true", reason="Invalid")
        return self._store(kind, there, new)

    def _store(self, kind: Kind, old: dict, new: dict) -> dict:
        new = copy.deepcopy(new)
        for word in ("uid", "creationTimestamp", "generation", "resourceVersion"):
            new["metadata"][word] = old["metadata"][word]
        if new == old:
            return copy.deepcopy(old)  # nothing changed: no new version, no event
        if any(new.get(word) != old.get(word) for word in {*new, *old} - {"metadata", "status"}):
            new["metadata"]["generation"] += 1
        return self._put(kind, new, "MODIFIED")

    def _put(self, kind: Kind, new: dict, what: str) -> dict:
        new = json.loads(json.dumps(new))  # as it comes over the wire
        self._version = next(self._versions)
        new["metadata"]["resourceVersion"] = str(self._version)
        new["metadata"]["managedFields"] = self._managed(new["metadata"]["uid"])
        self._objects[kind, new["metadata"]["namespace"], new["metadata"]["name"]] = new
        self._tell(what, kind, new)
        return copy.deepcopy(new)

    def _managed(self, uid: str) -> list[dict]:
        """Who set fields, without the fields."""
        words = (manager.split(":") for manager, paths in self._managers[uid].items() if paths)
        entries = [dict(zip(("manager", "operation", "subresource"), each, strict=False)) for each in words]
        return [one if "operation" in one else {**one, "subresource": "scale"} for one in entries]

    def _remove(self, kind: Kind, there: dict) -> None:
        metadata = there["metadata"]
        del self._objects[kind, metadata["namespace"], metadata["name"]]
        self._managers.pop(metadata["uid"])
        self._version = next(self._versions)
        there["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", kind, there)
        for (child_kind, _, _), child in list(self._objects.items()):
            if any(owner["uid"] == metadata["uid"] for owner in child["metadata"].get("ownerReferences", ())):
                self._remove(child_kind, child)

    def _tell(self, what: str, kind: Kind, manifest: dict) -> None:
        for watcher in self.watchers:
            watcher(what, kind, copy.deepcopy(manifest))


def merged(there: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(there) if isinstance(there, dict) else {}
    for word, value in patch.items():
        if value is None:
            result.pop(word, None)
        else:
            result[word] = merged(result.get(word), value)
    return result


def leaves(manifest: dict) -> Iterator[Path]:
    """Paths of the fields that an applied manifest claims; a list of named things is a map of them."""
    for word, value in manifest.items():
        if word not in ("apiVersion", "kind"):
            skipped = ("name", "namespace", "uid") if word == "metadata" else ()
            yield from (path for path in _leaves((word,), value) if path[1:2] not in [(name,) for name in skipped])


def _leaves(path: Path, value: Any) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for word, inner in value.items():
            yield from _leaves((*path, word), inner)
    elif key := _key_of(value):
        for item in value:
            yield from _leaves((*path, f"[{key}={item[key]}]"), item)
    else:
        yield path


def _key_of(value: Any) -> str | None:
    """By what a list is a map: the first of the usual keys that tells all its items apart."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return None
    for key in LIST_KEYS:
        if len({item.get(key) for item in value} - {None}) == len(value):
            return key
    return None


def _step(value: Any, word: str) -> Any:
    if word.startswith("[") and isinstance(value, list):
        key, _, wanted = word[1:-1].partition("=")
        return next((item for item in value if isinstance(item, dict) and str(item.get(key)) == wanted), None)
    return value.get(word) if isinstance(value, dict) else None


def _value(manifest: dict, path: Path) -> Any:
    value: Any = manifest
    for word in path:
        value = _step(value, word)
    return value


def _write(manifest: dict, path: Path, value: Any) -> None:
    place: Any = manifest
    for word, after in itertools.pairwise(path):
        inner = _step(place, word)
        if not isinstance(inner, dict | list):
            inner = [] if after.startswith("[") else {}
            if word.startswith("["):
                key, _, wanted = word[1:-1].partition("=")
                inner[key] = int(wanted) if key == "containerPort" else wanted
                place.append(inner)
            else:
                place[word] = inner
        place = inner
    place[path[-1]] = copy.deepcopy(value)


def _is_key(path: Path) -> bool:
    return len(path) > 1 and path[-2].startswith(f"[{path[-1]}=")


def _drop(manifest: dict, path: Path) -> None:
    """Remove a field, and what is empty then; an item's key goes with its item, when that has nothing else."""
    places = [_value(manifest, path[:depth]) for depth in range(len(path))]
    if places[-1] is None or (_is_key(path) and len(places[-1]) > 1):
        return
    places[-1].pop(path[-1], None)
    for place, word, inner in zip(places[-2::-1], path[-2::-1], places[:0:-1], strict=True):
        if inner:
            return
        if isinstance(place, list):
            place[:] = [item for item in place if item is not inner]
        else:
            place.pop(word, None)
