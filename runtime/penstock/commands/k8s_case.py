"""A service in a cluster with all that belongs to it, and the lines and tables in which a person is told of it.

Pure: objects are as JSON has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock_operator.observed.seen import Trouble
from penstock_operator.observed.trouble import pod_trouble
from penstock_operator.timestamps import from_timestamp

BAD, WAITING, GOOD, PLAIN, FAINT = "red", "yellow", "green", "", "dim"
NORMAL = {"Reconciling": "False", "Stalled": "False"}  # all other conditions should be True


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence."""

    text: str
    style: str = PLAIN


@dataclass(frozen=True, slots=True)
class Row:
    """Of a table."""

    cells: tuple[str, ...]
    style: str = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with lines, a table, or both."""

    heading: str
    lines: Sequence[Line] = ()
    columns: tuple[str, ...] = ()
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A service with all that belongs to it."""

    service: dict[str, Any]
    pods: list[dict[str, Any]]
    scalers: list[dict[str, Any]]
    events: list[dict[str, Any]]  # of the whole namespace
    hidden: list[str]  # kinds that the reader may not see
    now: float  # seconds since the epoch

    @property
    def name(self) -> str:
        """Of the service."""
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Of the service."""
        return str(self.service["metadata"]["namespace"])

    @property
    def status(self) -> dict[str, Any]:
        """What the operator said; empty if it said nothing."""
        return self.service.get("status") or {}

    @property
    def is_ready(self) -> bool:
        """True if the operator says so."""
        return bool(self.conditions.get("Ready", {}).get("status") == "True")

    @property
    def troubles(self) -> list[tuple[dict[str, Any], Trouble]]:
        """Pods with what ails them."""
        found = ((pod, pod_trouble(pod, self.now)) for pod in self.pods)
        return [(pod, trouble) for pod, trouble in found if trouble is not None]

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """By type."""
        return {one["type"]: one for one in self.status.get("conditions", ())}


def is_pod_ready(pod: dict[str, Any]) -> bool:
    """True if Kubernetes says so."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def style_of(kind: str, condition: dict[str, Any]) -> str:
    """The colour of a condition."""
    if not condition or condition["status"] == "Unknown":
        return FAINT
    if condition["status"] == NORMAL.get(kind, "True"):
        return GOOD
    return WAITING if kind in ("Reconciling", "ScalingActive") else BAD


def moment_of(stamp: str | None, otherwise: float) -> float:
    """Seconds since the epoch."""
    return otherwise if stamp is None else from_timestamp(stamp)


def age_of(stamp: str | None, now: float) -> str:
    """How long ago that was; a question mark where there is no time."""
    return "?" if stamp is None else duration_of(now - moment_of(stamp, now))


def duration_of(seconds: float) -> str:
    """`90s`, `12m`, `5h`, `3d`."""
    whole = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
