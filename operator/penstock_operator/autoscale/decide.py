"""How many pods each role should have now. Pure: the same history gives the same verdict.

Up at once (or after `windows.up`), down only when the greatest need of `windows.down` would fit easily; in between
nothing happens. Roles of which a pod does not answer stay as they are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock_operator.api.v1alpha1 import Autoscaling
from penstock_operator.autoscale.budget import fit
from penstock_operator.autoscale.demand import Demand
from penstock_operator.autoscale.history import History, Track
from penstock_operator.autoscale.limits import Limits, has_range, limits_of
from penstock_operator.duration import parse_duration
from penstock_operator.service import Service

UP_SHARE = 1.1  # of the present pods: more than this is needed before there are more
DOWN_SHARE = 0.8  # of the pods that would be left: no more than this may be needed
UP_SECONDS, DOWN_SECONDS = 0.0, 300.0
LEAST_GROWTH = 4  # pods that may be added to those that are ready, at once; or as many as there are

IDLE, HELD, LIMITS = "idleSeconds", "heldRequests", "limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a role has the number it has."""

    signal: str
    value: float
    target: float
    limited_by: str = ""  # max, min, gpuBudget, growth, starting, schedule NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """On one service."""

    targets: Mapping[str, int]  # by role
    reasons: Mapping[str, Reason]  # by role; a role that holds for lack of data is missing
    holds: Mapping[str, str]  # by role: why nothing is decided, as a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    pods: int
    reason: Reason | None
    hold: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    autoscaling: Autoscaling
    history: History
    limits: Mapping[str, Limits]
    current: Mapping[str, int]
    gpus: Mapping[str, int]
    now: float

    @property
    def least(self) -> dict[str, int]:
        return {role: max(1, limit.min) for role, limit in self.limits.items()}


def window_seconds(autoscaling: Autoscaling) -> tuple[float, float]:
    """For how long a need must stand: before there are more, and before there are fewer."""
    windows = autoscaling.windows
    up = UP_SECONDS if windows is None or windows.up is None else parse_duration(windows.up)
    down = DOWN_SECONDS if windows is None or windows.down is None else parse_duration(windows.down)
    return up, down


def decide(
    service: Service, history: History, current: Mapping[str, int], gpus: Mapping[str, int], now: float
) -> Verdict:
    """What there should be. `current`: requests of now; `gpus`: per pod. Raises `SpecError` for a bad schedule."""
    autoscaling = service.spec.autoscaling
    assert autoscaling is not None, f"{service.key} is not scaled by anybody"
    limits = {role: limits_of(autoscaling, role, now) for role in current}
    case = _Case(autoscaling=autoscaling, history=history, limits=limits, current=current, gpus=gpus, now=now)
    wishes = _zero(case)
    if wishes is None:
        wishes = {role: _wish(case, role) for role in current}
        if autoscaling.gpu_budget is not None:
            wishes = _fit(case, wishes, autoscaling.gpu_budget)
    return Verdict(
        targets={role: wish.pods for role, wish in wishes.items()},
        reasons={role: wish.reason for role, wish in wishes.items() if wish.reason is not None},
        holds={role: wish.hold for role, wish in wishes.items() if wish.hold},
    )


def _zero(case: _Case) -> dict[str, _Wish] | None:
    """To zero, or from zero; None where neither is to be done. All roles go and come together."""
    after, signals = case.autoscaling.scale_to_zero_after, case.history.signals
    if after is None or signals is None or not all(limit.may_be_zero for limit in case.limits.values()):
        return None
    if not any(case.current.values()):
        if signals.held:
            reason = Reason(signal=HELD, value=signals.held, target=0)
            return {role: _Wish(pods=max(1, limit.min), reason=reason) for role, limit in case.limits.items()}
        hold = "" if signals.has_router else "no router answers, so it is not known whether requests wait"
        return {role: _Wish(pods=0, reason=None, hold=hold) for role in case.current}
    idle, longest = case.history.idle_seconds(case.now), parse_duration(after)
    if case.history.idle_since is None or idle < longest:
        return None
    reason = Reason(signal=IDLE, value=idle, target=longest)
    return {role: _Wish(pods=0, reason=reason) for role in case.current}


def _wish(case: _Case, role: str) -> _Wish:
    """What the role itself wants, within its limits."""
    track, limits, current = case.history.tracks.get(role, Track()), case.limits[role], case.current[role]
    low, high = max(1, limits.min), max(1, limits.max)
    if not has_range(case.autoscaling, role):
        return _Wish(pods=current, reason=None)
    if not low <= current <= high:
        pods, cause = (low, "min") if current < low else (high, "max")
        reason = Reason(signal=LIMITS, value=current, target=pods, limited_by=_named(cause, limits))
        return _Wish(pods=pods, reason=reason)
    if track.is_missing or track.demand is None:
        return _Wish(pods=current, reason=None, hold=_why_unknown(track))
    up, down = window_seconds(case.autoscaling)
    last = track.moments[-1]
    if (demand := track.least(case.now, up)) is not None and demand.pods > current * UP_SHARE:
        return _more(demand, last.num_pods, limits, current)
    demand = track.greatest(case.now, down)
    if demand is None:
        return _Wish(pods=current, reason=_reason(track.demand))
    enough = math.ceil(demand.pods / DOWN_SHARE - 1e-9) + last.num_starting
    if enough >= current:
        return _Wish(pods=current, reason=_reason(demand))
    if enough < low < current:
        return _Wish(pods=low, reason=replace(_reason(demand), limited_by=_named("min", limits)))
    return _Wish(pods=max(enough, low), reason=_reason(demand))


def _more(demand: Demand, num_ready: int, limits: Limits, current: int) -> _Wish:
    wanted, high = math.ceil(demand.pods - 1e-9), max(1, limits.max)
    growth = max(2 * num_ready, num_ready + LEAST_GROWTH)  # pods that start are counted by what they will be, once
    pods, limited_by = wanted, ""
    if pods > growth:
        pods, limited_by = growth, "growth"
    if pods > high:
        pods, limited_by = high, _named("max", limits)
    return _Wish(pods=max(pods, current), reason=replace(_reason(demand), limited_by=limited_by))


def _fit(case: _Case, wishes: Mapping[str, _Wish], budget: int) -> dict[str, _Wish]:
    """The wishes within the GPU budget."""
    wanted = {role: wish.pods for role, wish in wishes.items()}
    given = fit(wanted, case.current, case.least, case.gpus, budget)
    if given == case.current and given != wanted:
        given = _shift(case) or given
    return {
        role: wish
        if given[role] == wish.pods
        else _Wish(pods=given[role], reason=_limited(wish.reason, "gpuBudget"), hold=wish.hold)
        for role, wish in wishes.items()
    }


def _shift(case: _Case) -> dict[str, int] | None:
    """One pod from the role that needs it less to the other, if that was so for the whole window down."""
    window = window_seconds(case.autoscaling)[1]
    least, most = {}, {}
    for role in case.current:
        track = case.history.tracks.get(role, Track())
        low, high = track.least(case.now, window), track.greatest(case.now, window)
        if low is None or high is None or track.is_missing:
            return None
        least[role], most[role] = low.pods, high.pods
    for giver, taker in itertools.permutations(case.current, 2):
        if case.gpus[giver] >= case.gpus[taker] and case.current[giver] > case.least[giver]:
            after = {**case.current, giver: case.current[giver] - 1, taker: case.current[taker] + 1}
            if after[taker] <= case.limits[taker].max and least[taker] / after[taker] > most[giver] / after[giver]:
                return after
    return None


def _why_unknown(track: Track) -> str:
    return "not all ready pods answer" if track.is_missing else "no pod is ready to say how much there is to do"


def _reason(demand: Demand) -> Reason:
    return Reason(signal=demand.signal, value=demand.value, target=demand.target)


def _limited(reason: Reason | None, by: str) -> Reason | None:
    return None if reason is None else replace(reason, limited_by=by)


def _named(cause: str, limits: Limits) -> str:
    return f"schedule {limits.schedule}" if limits.schedule else cause
