"""What is there: a service's children, as planning and status look at them."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """A pod of a role or of the router."""

    name: str
    uid: str
    role: str  # prefill, decode, both, router
    revision: str
    address: str  # IP; empty: none yet
    node: str  # empty: not scheduled
    phase: str
    is_ready: bool
    is_leaving: bool  # it has a deletion timestamp
    created: float  # seconds since the epoch
    drained_since: float | None  # from the annotation DRAINED
    deletion_cost: int
    trouble: Trouble | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod is not ready, as a reason and a sentence; `is_terminal`: waiting does not help."""

    reason: str  # Unschedulable, ImagePullFailed, OutOfMemory, CrashLoop, ModelAccessDenied, HandshakeRefused …
    message: str
    is_terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSeen:
    """A Deployment of ours."""

    name: str
    uid: str
    role: str
    revision: str
    user_hash: str
    created: float  # seconds since the epoch
    wanted: int  # spec.replicas
    observed: bool  # its controller has seen its newest generation
    num_pods: int
    num_ready: int
    num_available: int
    num_updated: int
    baseline: int | None  # from the annotation BASELINE
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerSeen:
    """A RoleScaler."""

    name: str
    uid: str
    role: str
    request: int  # spec.replicas
    writers: tuple[str, ...]  # names of the HPAs or ScaledObjects of others that target it
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSeen:
    """What a pod said last of its work."""

    pod: str
    at: float  # seconds since the epoch
    running: int
    waiting: int
    queued_tokens: int
    leases: int
    kv_usage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All of it, at one moment."""

    now: float  # seconds since the epoch
    workloads: tuple[WorkloadSeen, ...]  # of roles, all revisions
    router: WorkloadSeen | None
    pods: tuple[PodSeen, ...]
    scalers: dict[str, ScalerSeen]  # by role
    children: dict[tuple[Kind, str], Manifest]  # every owned object that is there, by kind and name
    foreign: tuple[tuple[Kind, str], ...]  # objects under our names that have another owner, or none
    loads: dict[str, LoadSeen]  # by pod name; a pod that does not answer is missing
    gpus_per_pod: dict[str, int]  # by role
