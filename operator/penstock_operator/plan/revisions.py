"""What is there, counted by revision and role, as rollouts look at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from penstock_operator.api.v1alpha1 import Autoscaling
from penstock_operator.desired.children import Children
from penstock_operator.observed.seen import Observed, PodSeen, WorkloadSeen
from penstock_operator.plan.replicas import ADVISORY, Target
from penstock_operator.plan.rollout import Budget, Goal, Revision, Rollout, Size
from penstock_operator.service import Service

DEFAULT_SURGE, DEFAULT_UNAVAILABLE = 1, 0


def build_rollout(service: Service, children: Children, observed: Observed, targets: Mapping[str, Target]) -> Rollout:
    """The service's revisions beside its goals."""
    revisions: dict[str, list[WorkloadSeen]] = {}
    for workload in sorted(observed.workloads, key=lambda one: (one.created, one.name)):
        revisions.setdefault(workload.revision, []).append(workload)
    seen = {name: _revision(name, workloads, observed) for name, workloads in revisions.items()}
    new = seen.pop(children.revision, Revision(name=children.revision, sizes={}))
    return Rollout(
        goals={role: _goal(service, role, target) for role, target in targets.items()},
        new=new,
        olds=tuple(seen.values()),
        budget=Budget(gpus=_gpu_budget(service.spec.autoscaling), per_pod=observed.gpus_per_pod),
        is_switched=_is_switched(children, observed),
    )


def pods_of(observed: Observed, workload: WorkloadSeen) -> list[PodSeen]:
    """A Deployment's pods."""
    return [pod for pod in observed.pods if (pod.role, pod.revision) == (workload.role, workload.revision)]


def _revision(name: str, workloads: Sequence[WorkloadSeen], observed: Observed) -> Revision:
    return Revision(name=name, sizes={one.role: _size(one, pods_of(observed, one), observed.now) for one in workloads})


def _size(workload: WorkloadSeen, pods: Sequence[PodSeen], now: float) -> Size:
    staying = [pod for pod in pods if not pod.is_leaving]
    return Size(
        wanted=workload.wanted,
        staying=len(staying),
        leaving=sum(pod.is_leaving and not pod.is_lost(now) for pod in pods),
        ready=sum(pod.is_ready and pod.drained_since is None for pod in staying),
        troubled=sum(pod.trouble is not None for pod in staying),
        baseline=workload.baseline or 0,
    )


def _goal(service: Service, role: str, target: Target) -> Goal:
    rollout, is_fixed = service.spec.rollout, service.roles[role].replicas is not None
    surge, unavailable = (None, None) if rollout is None else (rollout.max_surge, rollout.max_unavailable)
    goal = Goal(
        replicas=target.replicas,
        surge=_share(DEFAULT_SURGE if surge is None else surge, target.replicas, is_up=True),
        unavailable=_share(DEFAULT_UNAVAILABLE if unavailable is None else unavailable, target.replicas, is_up=False),
        is_fixed=is_fixed,
    )
    if goal.surge or goal.unavailable:
        return goal
    return dataclasses.replace(goal, unavailable=1)  # a small share of few pods: one must go, or none ever


def _share(share: int | str, replicas: int, *, is_up: bool) -> int:
    """A number, or a percentage of the pods, rounded as Deployments do."""
    if isinstance(share, int):
        return share
    percent = int(share.removesuffix("%")) * replicas
    return -(-percent // 100) if is_up else percent // 100


def _gpu_budget(autoscaling: Autoscaling | None) -> int | None:
    return None if autoscaling is None or autoscaling.mode == ADVISORY else autoscaling.gpu_budget


def _is_switched(children: Children, observed: Observed) -> bool:
    """True if the routers of the newest template are all there, or there are to be none."""
    wanted, seen = children.router, observed.router
    if wanted is None:
        return True
    return (
        seen is not None
        and seen.user_hash == wanted.user_hash
        and seen.observed
        and seen.num_updated == seen.num_pods
        and seen.num_available >= seen.wanted
    )
