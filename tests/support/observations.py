"""What the operator has seen of pods and workloads, for tests of what it concludes."""

from __future__ import annotations

from typing import Any

from penstock_operator.observed.seen import PodSeen, WorkloadSeen

NOW = 1_700_000_000.0


def pod_seen(name: str, **fields: Any) -> PodSeen:
    """One that serves, but for what is said."""
    seen = {
        "uid": f"uid-{name}",
        "role": "both",
        "revision": "a",
        "address": "10.0.0.7",
        "node": "node-1",
        "phase": "Running",
        "is_ready": True,
        "leaves_by": None,
        "created": NOW - 1000,
        "drained_since": None,
        "deletion_cost": 0,
        "trouble": None,
    }
    return PodSeen(name=name, **{**seen, **fields})


def workload_seen(name: str, num_pods: int, **fields: Any) -> WorkloadSeen:
    """One whose pods are all there and ready, but for what is said."""
    seen = {
        "uid": "uid",
        "role": "both",
        "revision": "a",
        "user_hash": "a",
        "created": NOW,
        "wanted": num_pods,
        "observed": True,
        "num_ready": num_pods,
        "num_available": num_pods,
        "num_updated": num_pods,
        "baseline": None,
        "manifest": {},
    }
    return WorkloadSeen(name=name, num_pods=num_pods, **{**seen, **fields})
