"""What an InferenceService should have."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock_operator.kinds import Kind
from penstock_operator.service import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the operator brings for every service; nothing of it is part of a revision."""

    runtime_image: str
    cluster_domain: str  # cluster.local
    apis: frozenset[Kind]  # optional kinds that the cluster knows
    operator_namespace: str
    scaler_address: str = ""  # host:port at which KEDA reaches us; empty: it does not
    master_keys: tuple[bytes, ...] = field(repr=False)  # the present one, and perhaps the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pods of one kind: created once for its hash and only scaled after that, whatever a new version of us would do."""

    role: str  # prefill, decode, both, router
    revision: str  # first 8 hex digits of `user_hash`; empty for the router, which is updated in place
    user_hash: str  # of what the user set for these pods, hex; also in the annotation USER_HASH
    manifest: Manifest  # Deployment, or LeaderWorkerSet where a replica is several pods, without `spec.replicas`


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """Everything that a service should have, except the numbers of pods."""

    revision: str  # of the roles' pods, all alike: a change of one role makes a new revision of both
    workloads: tuple[Workload, ...]  # one per role
    router: Workload | None
    applied: tuple[Manifest, ...]  # server-side applied whenever they change, in this order
    scalers: tuple[Manifest, ...]  # RoleScalers without `spec.replicas`: applied once they exist, seeded when created
