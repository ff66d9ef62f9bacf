"""Between which numbers of pods a role may move now."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_operator.api.v1alpha1 import Autoscaling, Range, Schedule
from penstock_operator.autoscale.cron import Cron
from penstock_operator.duration import parse_duration
from penstock_operator.names import PREFILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one role."""

    min: int
    max: int
    may_be_zero: bool  # without requests: no schedule wants pods now
    schedule: str = ""  # the one that set them; empty: none


def limits_of(autoscaling: Autoscaling, role: str, now: float) -> Limits:
    """The role's own limits, or those of its last schedule that is on. Raises `SpecError` for a bad one."""
    base = _range_of(autoscaling, role)
    low = 1 if base is None or base.min is None else base.min
    high = max(low, 1) if base is None or base.max is None else base.max
    may_be_zero, name = autoscaling.scale_to_zero_after is not None or low == 0, ""
    for schedule in autoscaling.schedules:
        span = _range_of(schedule, role)
        if span is not None and is_on(schedule, now):
            low = low if span.min is None else span.min
            high = max(high, low) if span.max is None else span.max
            may_be_zero = may_be_zero and not span.min
            name = schedule.name
    return Limits(min=min(low, high), max=high, may_be_zero=may_be_zero, schedule=name)


def widest(autoscaling: Autoscaling, role: str) -> tuple[int, int]:
    """Least and most pods that the role may ever have while it has any, by whichever schedule."""
    base = _range_of(autoscaling, role)
    spans = [base, *(_range_of(schedule, role) for schedule in autoscaling.schedules)]
    low = 1 if base is None or base.min is None else base.min
    high = max(low, 1) if base is None or base.max is None else base.max
    lows = [span.min for span in spans if span is not None and span.min is not None]
    highs = [span.max for span in spans if span is not None and span.max is not None]
    return max(1, min([low, *lows])), max([high, *lows, *highs])


def has_range(autoscaling: Autoscaling, role: str) -> bool:
    """True if the role is scaled at all: a part of `autoscaling` is about it."""
    return _range_of(autoscaling, role) is not None


def is_on(schedule: Schedule, now: float) -> bool:
    """True from its start for its duration. Raises `SpecError`."""
    return Cron.parse(schedule.start, schedule.time_zone).latest(now, parse_duration(schedule.duration)) is not None


def _range_of(part: Autoscaling | Schedule, role: str) -> Range | None:
    return part.prefill if role == PREFILL else part.decode
