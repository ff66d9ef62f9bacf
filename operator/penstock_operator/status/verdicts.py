"""The conditions of an InferenceService, each from how it stands."""

from __future__ import annotations

from collections.abc import Iterator

from penstock_operator import names
from penstock_operator.api.status import ConditionType
from penstock_operator.errors import ApiError, ForeignObject, SpecError
from penstock_operator.observed.seen import DownloadSeen, Trouble
from penstock_operator.status.conditions import Finding, found, is_wrong
from penstock_operator.status.standing import Standing

CONDITION_OF: dict[str, ConditionType] = {
    names.BOTH: "DecodeReady",
    names.PREFILL: "PrefillReady",
    names.DECODE: "DecodeReady",
}
MODEL_REASONS = ("ModelAccessDenied", "ModelNotFound", "ModelDownloadFailed", "ModelCacheFull", "ModelCacheReadOnly")


def findings(standing: Standing) -> Iterator[Finding]:
    """In the order in which they are written. Never are Reconciling and Stalled both True."""
    stalled = stall(standing)
    yield ready(standing, stalled)
    yield reconciling(standing, stalled)
    if stalled is None:
        yield found("Stalled", False, "Progressing", "nothing is in the way")
    else:
        yield found("Stalled", True, stalled.reason, stalled.message)
    yield model_ready(standing)
    for role in standing.service.roles:
        yield role_ready(standing, role)
    if standing.service.has_router:
        yield router_ready(standing)
    yield scaling_active(standing)


def stall(standing: Standing) -> Trouble | None:
    """What somebody has to change before anything goes on."""
    problem = standing.problem
    if isinstance(problem, SpecError):
        return Trouble(reason=problem.reason, message=str(problem), is_terminal=True)
    if standing.foreign:
        kind, name = standing.foreign[0]
        problem = ForeignObject(kind.kind, name)
    if isinstance(problem, ForeignObject):
        return Trouble(reason="ForeignObject", message=str(problem), is_terminal=True)
    if isinstance(problem, ApiError) and 400 <= problem.status < 500:
        return Trouble(reason=problem.reason or "Refused", message=str(problem), is_terminal=True)
    return standing.terminal_cause


def ready(standing: Standing, stalled: Trouble | None) -> Finding:
    """True if whoever asks is answered: by pods, or by a router that holds requests until there are some."""
    counts = "; ".join(_count(standing, role) for role in standing.service.roles)
    if standing.is_suspended:
        return found("Ready", True, "Suspended", "the service is suspended and runs nothing")
    if standing.plan is not None and standing.wants_none and standing.has_router_ready and standing.has_front:
        return found("Ready", True, "ScaledToZero", "no pods are wanted now")
    cause = stalled or standing.root_cause
    if standing.is_serving:
        cause = cause or standing.detour
        return found("Ready", True, "Serving", counts if cause is None else f"{counts}; {cause.message}")
    if cause is not None:
        return found("Ready", False, cause.reason, f"{cause.message} ({counts})")
    is_waited_for = any(standing.desired(role) and not standing.num_ready(role) for role in standing.service.roles)
    if not standing.has_router_ready and not is_waited_for:
        return found("Ready", False, "RouterNotReady", "the router is starting")
    return found("Ready", False, "PodsNotReady", counts)


def reconciling(standing: Standing, stalled: Trouble | None) -> Finding:
    """True while something is being done, or waited for."""
    if stalled is not None:
        return found("Reconciling", False, stalled.reason, "somebody has to act first")
    if standing.problem is not None:
        return found("Reconciling", True, "Retrying", str(standing.problem))
    plan = standing.plan
    if plan is not None and plan.waiting_for is not None:
        return found("Reconciling", True, plan.waiting_for.reason, plan.waiting_for.message)
    if plan is not None and plan.rollout.olds:
        names_of_old = ", ".join(old.name for old in plan.rollout.olds)
        if plan.is_paused:
            message = f"revision {plan.rollout.new.name} waits beside {names_of_old}: rollout.paused is set"
            return found("Reconciling", True, "RolloutPaused", message)
        message = f"revision {plan.rollout.new.name} replaces {names_of_old}"
        return found("Reconciling", True, "RollingOut", message)
    if standing.is_settled:
        return found("Reconciling", False, "Done", "everything is as it should be")
    counts = "; ".join(_count(standing, role) for role in standing.service.roles)
    cause = standing.root_cause
    return found("Reconciling", True, "Progressing" if cause is None else cause.reason, counts)


def model_ready(standing: Standing) -> Finding:
    """True if the weights are where pods find them."""
    trouble = standing.cause(names.DOWNLOAD)
    if standing.has_download:
        if standing.is_downloaded:
            return found("ModelReady", True, "Downloaded", "the shared cache holds the model")
        if trouble is not None:
            return is_wrong("ModelReady", trouble)
        seen = standing.observed.download
        how_far = "" if seen is None else f": {how_much(seen)}"
        return found("ModelReady", False, "Downloading", f"the shared cache is being filled{how_far}")
    if any(pod.is_serving and pod.revision == standing.revision for pod in standing.observed.pods):
        return found("ModelReady", True, "Loaded", "pods have loaded the model")
    cause = standing.cause(*standing.service.roles)
    if cause is not None and cause.reason in MODEL_REASONS:
        return is_wrong("ModelReady", cause)
    if standing.wants_none:
        return found("ModelReady", None, "NoPods", "each pod fetches the model when it starts")
    return found("ModelReady", False, "Loading", "no pod has loaded the model yet")


def how_much(seen: DownloadSeen) -> str:
    """As people say it."""
    unit, name = (1e9, "GB") if seen.total >= 1e9 else (1e6, "MB")
    percent = 100 * seen.done // max(1, seen.total)
    return f"{percent} %, {seen.done / unit:.1f} of {seen.total / unit:.1f} {name}"


def role_ready(standing: Standing, role: str) -> Finding:
    """True if all wanted pods of the role take requests."""
    condition, desired = CONDITION_OF[role], standing.desired(role)
    if standing.num_ready(role) >= desired:
        return found(condition, True, "Ready" if desired else "NoneWanted", _count(standing, role))
    if (cause := standing.cause(role)) is not None:
        return found(condition, False, cause.reason, f"{_count(standing, role)}: {cause.message}")
    return found(condition, False, "Starting", _count(standing, role))


def router_ready(standing: Standing) -> Finding:
    """True if all wanted routers take requests."""
    wanted, seen = standing.num_routers, standing.observed.router
    num_available = 0 if seen is None else seen.num_available
    count = f"{num_available} of {wanted} routers are ready"
    if num_available >= wanted:
        return found("RouterReady", True, "Ready" if wanted else "NoneWanted", count)
    if (cause := standing.cause(names.ROUTER)) is not None:
        return found("RouterReady", False, cause.reason, f"{count}: {cause.message}")
    return found("RouterReady", False, "Starting", count)


def scaling_active(standing: Standing) -> Finding:
    """True if something of ours, or an autoscaler by our metrics, sets the number of pods."""
    autoscaling, observed = standing.service.spec.autoscaling, standing.observed
    targets = {} if standing.plan is None else standing.plan.targets
    limits = [
        f"{role} is kept at {one.replicas} by {one.limited_by}" for role, one in targets.items() if one.limited_by
    ]
    if standing.is_suspended:
        return found("ScalingActive", False, "Suspended", "the service is suspended")
    writers = sorted({writer for scaler in observed.scalers.values() for writer in scaler.writers})
    if autoscaling is None:
        how = f"{', '.join(writers)} scales" if writers else "nobody scales but who writes the RoleScalers"
        told = "; ".join([how, *limits])
        return found("ScalingActive", bool(writers), "External" if writers else "Manual", told)
    if autoscaling.mode == "Advisory":
        return found("ScalingActive", False, "Advisory", "decisions are only reported")
    if autoscaling.mode == "Builtin" and writers:
        message = f"{', '.join(writers)} writes the same RoleScaler, so we do not"
        return found("ScalingActive", False, "OtherWriter", message)
    if observed.scaling is not None and observed.scaling.problem:
        return found("ScalingActive", False, "MetricsUnavailable", observed.scaling.problem)
    if observed.scaling is not None and observed.scaling.holds:
        held = "; ".join(f"{role}: {why}" for role, why in sorted(observed.scaling.holds.items()))
        return found("ScalingActive", True, "Holding", "; ".join([held, *limits]))
    if limits:
        return found("ScalingActive", True, "Limited", "; ".join(limits))
    return found("ScalingActive", True, autoscaling.mode, "the number of pods follows the load")


def _count(standing: Standing, role: str) -> str:
    name = "" if role == names.BOTH else f"{role} "
    return f"{standing.num_ready(role)} of {standing.desired(role)} {name}pods are ready"
