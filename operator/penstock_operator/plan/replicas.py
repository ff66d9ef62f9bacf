"""How many pods each role should have: what is asked for, within what is allowed."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator.api.v1alpha1 import Autoscaling, Role
from penstock_operator.autoscale.budget import fit
from penstock_operator.autoscale.limits import limits_of
from penstock_operator.errors import SpecError
from penstock_operator.names import PREFILL
from penstock_operator.observed.seen import Observed
from penstock_operator.service import Service

ADVISORY = "Advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Of one role."""

    replicas: int
    floor: int  # the budget leaves at least as many
    limited_by: str = ""  # what kept a request from being met: replicas, min, max, gpuBudget, suspend; empty: nothing


def build_targets(service: Service, observed: Observed) -> dict[str, Target]:
    """By role. Raises `SpecError` for a budget that not even the least is within, and for bad schedules."""
    if service.spec.suspend:
        return {name: Target(replicas=0, floor=0, limited_by="suspend") for name in service.roles}
    targets = {name: _target(service, observed, name, role) for name, role in service.roles.items()}
    autoscaling = service.spec.autoscaling
    if autoscaling is None or autoscaling.gpu_budget is None or autoscaling.mode == ADVISORY:
        return targets
    held = {name: seed(service, observed, name) for name in targets}
    return _within(autoscaling.gpu_budget, targets, held, observed.gpus_per_pod)


def seed(service: Service, observed: Observed, role: str) -> int:
    """What to ask for where nobody does: the pods that are there, else what was wanted last, else the least."""
    wanted = [one.wanted for one in observed.workloads if one.role == role and one.wanted]
    if wanted:
        last = service.status.get("roles", {}).get(role, {}).get("desired")
        # In a rollout the sum has surge in it: too many for a while is better than too few.
        return wanted[0] if len(wanted) == 1 else max(*wanted, last or sum(wanted))
    autoscaling = service.spec.autoscaling
    return 1 if autoscaling is None else limits_of(autoscaling, role, observed.now).min


def _target(service: Service, observed: Observed, name: str, role: Role) -> Target:
    scaler = observed.scalers.get(name)
    request = seed(service, observed, name) if scaler is None else scaler.request
    if role.replicas is not None:
        limited_by = "replicas" if scaler is not None and request != role.replicas else ""
        return Target(replicas=role.replicas, floor=role.replicas, limited_by=limited_by)
    autoscaling = service.spec.autoscaling
    if autoscaling is None or autoscaling.mode == ADVISORY or not _has_range(autoscaling, name):
        return Target(replicas=request, floor=min(request, 1))
    limits = limits_of(autoscaling, name, observed.now)
    floor = min(limits.min, request) if limits.may_be_zero and request == 0 else limits.min
    if request > limits.max:
        return Target(replicas=limits.max, floor=floor, limited_by="max")
    if request < floor:
        return Target(replicas=floor, floor=floor, limited_by="min")
    return Target(replicas=request, floor=floor)


def _has_range(autoscaling: Autoscaling, role: str) -> bool:
    return (autoscaling.prefill if role == PREFILL else autoscaling.decode) is not None


def _within(budget: int, targets: dict[str, Target], held: dict[str, int], gpus: dict[str, int]) -> dict[str, Target]:
    """Roles that want more share what is left of the budget. `held`: pods that roles have now, which nobody takes."""
    floors = {name: target.floor for name, target in targets.items()}
    least = sum(gpus[name] * floor for name, floor in floors.items())
    if least > budget:
        raise SpecError(
            "BudgetTooSmall", f"spec.autoscaling.gpuBudget: {budget} is not enough: the least pods need {least} GPUs"
        )
    given = fit({name: target.replicas for name, target in targets.items()}, held, floors, gpus, budget)
    return {
        name: target
        if given[name] == target.replicas
        else Target(replicas=given[name], floor=target.floor, limited_by="gpuBudget")
        for name, target in targets.items()
    }
