"""A service under the autoscaler's eyes: its history, and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from penstock_operator.api.status import Decision
from penstock_operator.autoscale.decide import Reason, Verdict, decide, window_seconds
from penstock_operator.autoscale.explain import build_decision
from penstock_operator.autoscale.history import History
from penstock_operator.autoscale.signals import Scrape, build_signals
from penstock_operator.observed.seen import LoadSeen, Observed
from penstock_operator.service import Manifest, Service

KEPT = 16  # decisions


@dataclass(slots=True, eq=False)
class Watched:
    """Of one InferenceService, for as long as it has its UID."""

    service: Service
    history: History = field(default_factory=History)
    loads: Mapping[str, LoadSeen] = field(default_factory=dict)  # by pod
    scraped_at: float = 0.0  # seconds since the epoch
    verdict: Verdict | None = None
    holds: dict[str, str] = field(default_factory=dict)  # by role: why nothing is decided
    decisions: tuple[Decision, ...] = ()  # newest first
    _said: dict[str, tuple[int, str]] = field(default_factory=dict)  # by role: number and limit that were last told

    def recall(self, status: Manifest) -> None:
        """Take over the decisions that a status tells of: those of whoever led before."""
        told = status.get("autoscaling", {}).get("lastDecisions", ())
        try:
            self.decisions = msgspec.convert(tuple(told), tuple[Decision, ...])
        except msgspec.ValidationError:  # of another version of us
            self.decisions = ()
        self._said = {one.role: (one.to, one.limited_by) for one in reversed(self.decisions)}

    @property
    def version(self) -> tuple[str, int]:
        """UID and generation of the object that this is about."""
        return (self.service.uid, self.service.generation)

    def look(self, scrape: Scrape, observed: Observed, current: Mapping[str, int], now: float) -> Verdict:
        """What should be, after one more scrape. `current`: requests by role. Raises `SpecError` for a bad schedule."""
        autoscaling = self.service.spec.autoscaling
        assert autoscaling is not None, f"{self.service.key} is not scaled by anybody"
        signals = build_signals(scrape, observed.pods, tuple(self.service.roles))
        self.history.add(signals, self.service.spec, window_seconds(autoscaling))
        self.verdict = decide(self.service, self.history, current, observed.gpus_per_pod, now)
        self.holds = dict(self.verdict.holds)
        return self.verdict

    def note(
        self, now: float, role: str, before: int, reason: Reason, *, after: int, is_advice: bool
    ) -> Decision | None:
        """Keep and return it if it is a decision: another number, or another limit, than was told before."""
        said = self._said.get(role, (before, ""))
        is_new = said != (after, reason.limited_by) if is_advice else before != after or said[1] != reason.limited_by
        self._said[role] = (after, reason.limited_by)
        if not is_new or (before == after and not reason.limited_by):
            return None
        decision = build_decision(now, role, (before, after), reason, is_advice=is_advice)
        self.decisions = (decision, *self.decisions)[:KEPT]
        return decision
