"""Conditions: one word for programs and a sentence for people, with the time at which they last turned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock_operator.api.status import Condition, ConditionType
from penstock_operator.observed.seen import Trouble
from penstock_operator.service import Manifest
from penstock_operator.timestamps import to_timestamp

LONGEST_MESSAGE = 4096
LONGEST_REASON = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a condition says, before its time is known. `value`: None is Unknown."""

    type: ConditionType
    value: bool | None
    reason: str
    message: str


def found(type: ConditionType, value: bool | None, reason: str, message: str) -> Finding:
    """A finding in one line."""
    return Finding(type=type, value=value, reason=reason, message=message)


def is_wrong(type: ConditionType, trouble: Trouble) -> Finding:
    """False, for this trouble."""
    return Finding(type=type, value=False, reason=trouble.reason, message=trouble.message)


def with_times(findings: Iterable[Finding], before: Manifest, *, generation: int, now: float) -> tuple[Condition, ...]:
    """As they are written. `before`: the status that was written last; who has not turned keeps its time."""
    known = {one.get("type"): one for one in before.get("conditions", ())}
    conditions = []
    for finding in findings:
        status = "Unknown" if finding.value is None else str(finding.value)
        last = known.get(finding.type, {})
        has_turned = last.get("status") != status or "lastTransitionTime" not in last
        conditions.append(
            Condition(
                type=finding.type,
                status=status,  # type: ignore[arg-type]
                reason=finding.reason[:LONGEST_REASON],
                message=finding.message[:LONGEST_MESSAGE],
                last_transition_time=to_timestamp(now) if has_turned else last["lastTransitionTime"],
                observed_generation=generation,
            )
        )
    return tuple(conditions)
