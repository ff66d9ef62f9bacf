"""From what should be and what is there to what to do: one level-triggered step, which remembers nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock_operator import names
from penstock_operator.desired.children import Children
from penstock_operator.kinds import AUTOSCALER, DEPLOYMENT, JOB, SCALED_OBJECT, SERVICE, Kind, kind_of
from penstock_operator.observed.seen import LOST_SECONDS, Observed, Trouble, WorkloadSeen
from penstock_operator.plan.actions import Action, Annotate, Apply, Create, Delete, SetReplicas
from penstock_operator.plan.fetched import is_fetched, is_loaded, stale_jobs
from penstock_operator.plan.pause import paused_sizes
from penstock_operator.plan.replicas import Target, build_targets, seed
from penstock_operator.plan.revisions import build_rollout, pods_of
from penstock_operator.plan.rollout import Revision, Rollout, Sizes, next_sizes
from penstock_operator.plan.scale_down import resize
from penstock_operator.service import Manifest, Service

DOWNLOAD_SECONDS = 5.0  # between two looks at how far a download is
AUTOSCALERS = (AUTOSCALER, SCALED_OBJECT)
CAPACITY_SECONDS = 30.0  # between two looks while a rollout waits for room


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, in this order: what fails ends it, and the next plan begins anew."""

    actions: tuple[Action, ...]
    wake_after: float | None  # seconds until to look again even if nothing happens; None: not needed
    targets: dict[str, Target]  # by role: what is wanted in the end
    rollout: Rollout
    waiting_for: Trouble | None  # why a rollout does not go on, while the old revision serves
    is_paused: bool


def plan(service: Service, children: Children, observed: Observed) -> Plan:
    """The next step from `observed` towards `children`. Raises `SpecError`."""
    targets = build_targets(service, observed)
    rollout = build_rollout(service, children, observed, targets)
    is_paused = service.spec.rollout is not None and service.spec.rollout.paused is True
    is_waiting = rollout.is_old_serving and not is_fetched(children, observed)
    sizes = paused_sizes(rollout) if is_waiting or (is_paused and rollout.olds) else next_sizes(rollout)
    # While roles change, clients stay with the pods that they reach.
    held = {(SERVICE, service.key.name)} if rollout.is_changing_shape else set()
    actions = [
        *_apply(children, observed, held),
        *stale_jobs(children, observed),
        *_scalers(service, children, observed, targets),
    ]
    actions += _router(service, children, observed, is_paused)
    actions += _begin(children, observed, sizes)
    over = {old.name for old in rollout.olds if _is_over(observed, old)}
    wakes = [_until_lost(observed)]
    for workload in observed.workloads:
        if workload.revision in over:
            actions.append(_delete(workload, f"revision {workload.revision} has no pods any more"))
            continue
        step, wake_after = _move(service, children, observed, workload, sizes)
        actions += step
        wakes.append(wake_after)
    actions += _prune(children, observed, is_over=rollout.is_complete and not rollout.olds)
    waiting_for = None
    if is_waiting:
        waiting_for = _waiting_for_model(rollout)
    elif not is_paused:
        waiting_for = _waiting_for(observed, rollout, sizes)
    if waiting_for is not None:
        wakes.append(CAPACITY_SECONDS)
    if observed.downloader is not None:
        wakes.append(DOWNLOAD_SECONDS)
    return Plan(
        actions=tuple(actions),
        wake_after=min((wake for wake in wakes if wake is not None), default=None),
        targets=targets,
        rollout=rollout,
        waiting_for=waiting_for,
        is_paused=is_paused,
    )


def name_of(manifest: Manifest) -> tuple[Kind, str]:
    """Under what a manifest's object is found."""
    return kind_of(manifest), manifest["metadata"]["name"]


def desired_names(children: Children) -> set[tuple[Kind, str]]:
    """Everything that a service should have."""
    workloads = [*children.workloads, *([children.router] if children.router else [])]
    manifests = [*children.applied, *children.scalers, *(workload.manifest for workload in workloads)]
    return {name_of(manifest) for manifest in manifests}


def _uid(observed: Observed, name: tuple[Kind, str]) -> str | None:
    there = observed.children.get(name)
    return None if there is None else there["metadata"]["uid"]


def _apply(children: Children, observed: Observed, held: set[tuple[Kind, str]]) -> Iterable[Action]:
    for manifest in children.applied:
        name = name_of(manifest)
        if name in observed.foreign:
            continue  # somebody else's
        if name[0] == JOB and (name in observed.children or is_loaded(children, observed)):
            continue  # its template cannot change; and what it was to fetch is there
        if name in held and name in observed.children:
            continue
        yield Apply(manifest=manifest, uid=_uid(observed, name))


def _scalers(
    service: Service, children: Children, observed: Observed, targets: Mapping[str, Target]
) -> Iterable[Action]:
    """`spec.replicas` is written once, by POST: an apply that once held it and then does not would delete it."""
    for manifest in children.scalers:
        name, role = name_of(manifest), manifest["metadata"]["labels"][names.ROLE]
        if name in observed.foreign:
            continue
        if (uid := _uid(observed, name)) is not None:
            yield Apply(manifest=manifest, uid=uid)
        else:
            replicas = seed(service, observed, role) if service.spec.suspend else targets[role].replicas
            yield Create(manifest=_with_replicas(manifest, replicas))


def _router(service: Service, children: Children, observed: Observed, is_paused: bool) -> Iterable[Action]:
    """Updated in place, by its Deployment; left alone while what the user set stays, whoever we are by now."""
    router, seen = children.router, observed.router
    if router is None or name_of(router.manifest) in observed.foreign:
        return
    spec = service.spec.router
    replicas = 0 if service.spec.suspend else (spec.replicas if spec and spec.replicas is not None else 1)
    if seen is None:
        yield Create(manifest=_with_replicas(router.manifest, replicas))
        return
    if seen.user_hash != router.user_hash and not is_paused:
        yield Apply(manifest=router.manifest, uid=seen.uid)
    if seen.wanted != replicas:
        why = "the service is suspended" if service.spec.suspend else f"{replicas} routers are wanted"
        yield SetReplicas(kind=DEPLOYMENT, name=seen.name, replicas=replicas, why=why)


def _begin(children: Children, observed: Observed, sizes: Sizes) -> Iterable[Action]:
    """The Deployments of the new revision that are not there yet."""
    for workload in children.workloads:
        name = name_of(workload.manifest)
        if workload.role in sizes.new and name not in observed.children and name not in observed.foreign:
            yield Create(manifest=_with_replicas(workload.manifest, sizes.new[workload.role]))


def _move(
    service: Service, children: Children, observed: Observed, workload: WorkloadSeen, sizes: Sizes
) -> tuple[list[Action], float | None]:
    """One Deployment to its size."""
    is_new = workload.revision == children.revision
    counts = sizes.new if is_new else sizes.olds[workload.revision]
    if workload.role not in counts:
        return [], None
    target, actions = counts[workload.role], list[Action]()
    if is_new and workload.baseline is not None:
        actions.append(_mark(workload, None))
    if not is_new and target < workload.wanted and workload.baseline is None:
        actions.append(_mark(workload, workload.wanted))
    pods = pods_of(observed, workload)
    if service.spec.suspend:  # all go: no victims to choose, and each finishes what it has within its grace period
        stop = SetReplicas(kind=workload.kind, name=workload.name, replicas=0, why="the service is suspended")
        return [*actions, stop] if workload.wanted else actions, None
    what = f"revision {workload.revision}: {workload.wanted} to {target} {workload.role} pods"
    change = resize(workload, target, pods, observed.loads, observed.now, why=what)
    return [*actions, *change.actions], change.wake_after


def _is_over(observed: Observed, revision: Revision) -> bool:
    """True if no role of it has or wants a pod, and its Deployments have seen that and say so too."""
    workloads = [one for one in observed.workloads if one.revision == revision.name]
    return revision.is_empty and all(one.observed and one.num_pods == 0 for one in workloads)


def _until_lost(observed: Observed) -> float | None:
    """Seconds until a pod that is ending no longer holds anything up, should nobody tell that it has ended."""
    waits = [
        pod.leaves_by + LOST_SECONDS + 1 - observed.now
        for pod in observed.pods
        if pod.leaves_by is not None and not pod.is_lost(observed.now)
    ]
    return min(waits, default=None)


def _mark(workload: WorkloadSeen, baseline: int | None) -> Annotate:
    value = None if baseline is None else str(baseline)
    return Annotate(kind=workload.kind, name=workload.name, uid=workload.uid, annotations={names.BASELINE: value})


def _delete(workload: WorkloadSeen, why: str) -> Delete:
    return Delete(kind=workload.kind, name=workload.name, uid=workload.uid, why=why)


def _prune(children: Children, observed: Observed, *, is_over: bool) -> Iterable[Action]:
    """What the service no longer asks for; only after a rollout (`is_over`), because old pods may still use it.

    Nobody uses autoscalers: one that stays would go on scaling against whoever does it now.
    """
    wanted = desired_names(children)
    for (kind, name), manifest in observed.children.items():
        if (kind, name) not in wanted and (is_over or kind in AUTOSCALERS):
            uid = manifest["metadata"]["uid"]
            yield Delete(kind=kind, name=name, uid=uid, why="the InferenceService does not ask for it any more")


def _waiting_for_model(rollout: Rollout) -> Trouble:
    """Pods that only wait would take room, and GPUs, from nobody's use to nobody's."""
    message = f"revision {rollout.new.name} waits until the shared cache holds its model"
    return Trouble(reason="WaitingForModel", message=f"{message}; revision {rollout.olds[0].name} serves")


def _waiting_for(observed: Observed, rollout: Rollout, sizes: Sizes) -> Trouble | None:
    """The new revision finds no room: said only while an old one serves."""
    wanted = {(one.name, role): size.wanted for one in (rollout.new, *rollout.olds) for role, size in one.sizes.items()}
    asked = {(rollout.new.name, role): count for role, count in sizes.new.items()}
    asked |= {(name, role): count for name, counts in sizes.olds.items() for role, count in counts.items()}
    if not rollout.olds or rollout.is_complete or asked != wanted:
        return None
    why = next(
        (
            pod.trouble.message
            for pod in observed.pods
            if pod.revision == rollout.new.name and pod.trouble is not None and pod.trouble.reason == "Unschedulable"
        ),
        f"one more step is beyond the GPU budget of {rollout.budget.gpus}" if sizes.is_over_budget else None,
    )
    if why is None:
        return None
    message = f"revision {rollout.new.name} waits for room: {why}; revision {rollout.olds[0].name} serves"
    if not any(goal.unavailable for goal in rollout.goals.values()):
        message += "; with rollout.maxUnavailable: 1 it would go on without more room"
    return Trouble(reason="WaitingForCapacity", message=message)


def _with_replicas(manifest: Manifest, replicas: int) -> Manifest:
    return {**manifest, "spec": {**manifest["spec"], "replicas": replicas}}
