"""What is there: a service's children, as planning and status look at them."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator import names
from penstock_operator.api.status import Decision
from penstock_operator.kinds import DEPLOYMENT, Kind
from penstock_operator.service import Manifest

LOST_SECONDS = 30.0  # after its grace has ended


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
    leaves_by: float | None  # deletion timestamp: when its grace ends, in seconds since the epoch; None: it stays
    created: float  # seconds since the epoch
    drained_since: float | None  # from the annotation DRAINED
    deletion_cost: int
    trouble: Trouble | None
    is_mounting: bool = False  # it has a node, which has not got its volumes and its network together yet

    @property
    def is_leaving(self) -> bool:
        """True from its deletion to its end."""
        return self.leaves_by is not None

    def is_lost(self, now: float) -> bool:
        """True if it should be gone and nobody reports so: its node does not answer, and it holds nothing up."""
        return self.leaves_by is not None and now > self.leaves_by + LOST_SECONDS

    @property
    def is_serving(self) -> bool:
        """True while it takes new requests."""
        return self.is_ready and not self.is_leaving and self.drained_since is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a pod is not ready, as a reason and a sentence; `is_terminal`: waiting does not help."""

    reason: str  # Unschedulable, ImagePullFailed, OutOfMemory, CrashLoop, ModelAccessDenied, HandshakeRefused …
    message: str
    is_terminal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSeen:
    """A Deployment of ours, or a LeaderWorkerSet, whose pods are then its leaders."""

    kind: Kind = DEPLOYMENT
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
    refused: str = ""  # why routers do not send it requests; empty: they do


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSeen:
    """What the autoscaler says of a service."""

    decisions: tuple[Decision, ...]  # newest first
    holds: dict[str, str]  # by role: why nothing is decided, as a sentence
    problem: str = ""  # what keeps the whole mode from working, as a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadSeen:
    """How far the model's way to the shared volume is, in bytes."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All of it, at one moment."""

    now: float  # seconds since the epoch
    workloads: tuple[WorkloadSeen, ...]  # of roles, all revisions
    router: WorkloadSeen | None
    pods: tuple[PodSeen, ...]  # without those that have ended
    scalers: dict[str, ScalerSeen]  # by role
    children: dict[tuple[Kind, str], Manifest]  # every owned object that is there, by kind and name
    foreign: tuple[tuple[Kind, str], ...]  # objects under our names that have another owner, or none
    loads: dict[str, LoadSeen]  # by pod name; a pod that does not answer is missing
    gpus_per_pod: dict[str, int]  # by role; of the whole group where a replica is several pods
    orphans: frozenset[tuple[Kind, str]] = frozenset()  # of `foreign`: a namesake's that was deleted; they go as well
    failures: tuple[PodSeen, ...] = ()  # that failed, and after which none has become ready
    scaling: ScalingSeen | None = None  # None: nothing is scaled, or nothing was looked at yet
    download: DownloadSeen | None = None  # None: nothing is fetched, or nothing was said of it yet

    @property
    def downloader(self) -> PodSeen | None:
        """The pod that fills the shared volume, while it does."""
        pods = (pod for pod in self.pods if pod.role == names.DOWNLOAD and pod.phase == "Running" and pod.address)
        return next((pod for pod in pods if not pod.is_leaving), None)
