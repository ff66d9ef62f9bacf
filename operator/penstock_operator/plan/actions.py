"""What a plan wants done, as data. `kube.py` does it; nothing else writes."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """POST it; that it exists already is an error of the next turn."""

    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply; `uid`: of the object that was seen, None where none was."""

    manifest: Manifest
    uid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetReplicas:
    """Write /scale of a Deployment."""

    kind: Kind
    name: str
    replicas: int
    why: str  # a sentence, for the log and the Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotate:
    """Merge annotations into an object that exists; None removes one."""

    kind: Kind
    name: str
    uid: str
    annotations: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Tell a pod to take no new requests (or again some)."""

    pod: str
    uid: str
    address: str  # host:port of its internal port
    is_undrain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete it with everything below, if it is still this one."""

    kind: Kind
    name: str
    uid: str
    why: str


Action = Create | Apply | SetReplicas | Annotate | Drain | Delete
