"""Fewer pods of one Deployment: who goes, who is drained before, and who stays after all.

Kubernetes ends pods of a ReplicaSet in this order: without a node, pending, not ready, lowest deletion cost. A victim
that serves is told to drain, which makes it not ready, and gets the lowest cost; so it is the one that goes.
A LeaderWorkerSet loses its highest indices, whatever their pods do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock_operator import names
from penstock_operator.kinds import LEADER_WORKER_SET, POD
from penstock_operator.observed.seen import LoadSeen, PodSeen, WorkloadSeen
from penstock_operator.plan.actions import Action, Annotate, Drain, SetReplicas
from penstock_operator.timestamps import to_timestamp

LOWEST_COST = -(2**31) + 1
PATIENCE_SECONDS = 60.0  # for a drained pod to become idle; what still runs then has the pod's own grace period
BLIND_SECONDS = 5.0  # the same for a pod that does not say what it does
LOOK_SECONDS = 2.0  # between two looks at a pod that drains


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """What to do with one Deployment now."""

    actions: tuple[Action, ...]
    wake_after: float | None = None  # seconds; None: an event will tell


def resize(
    workload: WorkloadSeen, target: int, pods: Sequence[PodSeen], loads: Mapping[str, LoadSeen], now: float, *, why: str
) -> Resize:
    """Bring a workload to `target` pods. `pods`: its own. What serves is drained before the number goes down."""
    there = [pod for pod in pods if not pod.is_leaving]
    if workload.kind == LEADER_WORKER_SET:
        staying = sorted(there, key=_index, reverse=True)
        victims = [pod for pod in staying if _index(pod) >= target]
    else:
        staying = sorted(there, key=lambda pod: _rank(pod, loads))
        victims = staying[: max(0, len(staying) - target)]
    serving = [pod for pod in victims if pod.is_ready or pod.drained_since is not None]
    actions: list[Action] = []
    for pod in staying[len(victims) :]:
        actions += _undrain(pod)
    for pod in serving:
        actions += _drain(pod, now)
    waits = [wait for pod in serving if (wait := _wait(pod, loads.get(pod.name), now)) > 0]
    is_resized = target == workload.wanted
    if not is_resized and not waits:
        actions.append(SetReplicas(kind=workload.kind, name=workload.name, replicas=target, why=why))
    is_watched = any(isinstance(action, Drain) for action in actions) or (waits and not is_resized)
    return Resize(actions=tuple(actions), wake_after=min((LOOK_SECONDS, *waits)) if is_watched else None)


def _index(pod: PodSeen) -> int:
    """Of a group, which is the end of its leader's name."""
    return int(pod.name.rpartition("-")[2])


def _rank(pod: PodSeen, loads: Mapping[str, LoadSeen]) -> tuple[bool, bool, bool, bool, float, float, str]:
    """Who goes first is smallest: as Kubernetes has it, then who has the least to do, then the youngest."""
    load = loads.get(pod.name)
    work = 0.0 if load is None else load.leases + load.running + load.waiting + load.kv_usage
    is_marked = pod.drained_since is not None
    return (
        bool(pod.node),
        pod.phase != "Pending",
        pod.is_ready and not is_marked,
        not is_marked,
        work,
        -pod.created,
        pod.name,
    )


def _drain(pod: PodSeen, now: float) -> list[Action]:
    """Mark first: who finds the mark and a pod that takes requests tells it again."""
    actions: list[Action] = []
    if pod.drained_since is None:
        marks: dict[str, str | None] = {names.DRAINED: to_timestamp(now), names.DELETION_COST: str(LOWEST_COST)}
        actions.append(Annotate(kind=POD, name=pod.name, uid=pod.uid, annotations=marks))
    if pod.is_ready and pod.address:
        actions.append(Drain(pod=pod.name, uid=pod.uid, address=_internal(pod)))
    return actions


def _undrain(pod: PodSeen) -> list[Action]:
    """Tell it until it is ready; then the mark goes. A pod that did not hear is told again for as long as it has it."""
    if pod.drained_since is None:
        return []
    marks: dict[str, str | None] = {names.DRAINED: None, names.DELETION_COST: None}
    annotate = Annotate(kind=POD, name=pod.name, uid=pod.uid, annotations=marks)
    if not pod.address:
        return [annotate]
    tell = Drain(pod=pod.name, uid=pod.uid, address=_internal(pod), is_undrain=True)
    return [tell, annotate] if pod.is_ready else [tell]


def _wait(pod: PodSeen, load: LoadSeen | None, now: float) -> float:
    """Seconds to leave a victim in peace; 0: it may go. We see the mark before that, and so does who ends pods."""
    if pod.drained_since is None:
        return LOOK_SECONDS
    is_known = load is not None and load.at >= pod.drained_since + 1  # marks are cut to whole seconds
    if is_known and load is not None and not (load.running or load.waiting or load.leases):
        return 0.0
    return max(0.0, pod.drained_since + (PATIENCE_SECONDS if is_known else BLIND_SECONDS) - now)


def _internal(pod: PodSeen) -> str:
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    return f"{host}:{names.INTERNAL_PORT}"
