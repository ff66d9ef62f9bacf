"""What a service's roles needed lately: as much as windows look back, in little memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from penstock_operator.api.v1alpha1 import InferenceServiceSpec
from penstock_operator.autoscale.demand import BUSY_SECONDS, Demand, Targets, demand_of
from penstock_operator.autoscale.moment import Moment
from penstock_operator.autoscale.signals import RoleLoad, Signals
from penstock_operator.names import PREFILL

BUCKETS = 60  # parts that a window is kept in
SHORTEST_BUCKET = 1.0  # seconds
LONGEST_GAP = 30.0  # seconds between two samples, beyond which what was between them is not known


@dataclass(slots=True, eq=False)
class Track:
    """One role."""

    moments: deque[Moment] = field(default_factory=deque)
    is_missing: bool = False  # the last sample was not whole
    known_since: float | None = None  # from when on there were whole samples without a long gap
    demand: Demand | None = None  # now
    buckets: deque[tuple[float, Demand, Demand]] = field(
        default_factory=deque
    )  # (start, least, greatest), oldest first
    _last: tuple[float, RoleLoad] | None = None  # the last whole sample
    _finished: int = 0  # in it

    def add(self, signals: Signals, role: str, targets: Targets, bucket_seconds: float) -> None:
        """One more sample."""
        at, load, held = signals.at, signals.roles[role], 0 if role == PREFILL else signals.held
        if self._last is not None and not 0 < at - self._last[0] <= LONGEST_GAP:
            self._forget()
        self.is_missing = bool(load.missing)
        if self.is_missing:
            return
        finished = 0 if self._last is None else max(0, signals.finished - self._finished)
        self.moments.append(replace(Moment.of(at, load, held, self._last), finished=finished))
        self._last, self._finished = (at, load), signals.finished
        while self.moments[0].at <= at - BUSY_SECONDS:
            self.moments.popleft()
        self.demand = demand_of(self.moments, targets)
        if self.demand is None:
            self._forget()
            return
        self.known_since = at if self.known_since is None else self.known_since
        self._put(at, self.demand, bucket_seconds)

    def greatest(self, now: float, seconds: float) -> Demand | None:
        """Over a window; None if not all of it is known."""
        if self.known_since is None or self.known_since > now - seconds:
            return None
        return max((most for start, _, most in self._within(now, seconds)), key=lambda demand: demand.pods)

    def least(self, now: float, seconds: float) -> Demand | None:
        """Over a window; None if not all of it is known, or nothing but one sample is."""
        if self.known_since is None or self.known_since > now - seconds or len(self.moments) < 2:
            return None
        return min((least for start, least, _ in self._within(now, seconds)), key=lambda demand: demand.pods)

    def _within(self, now: float, seconds: float) -> list[tuple[float, Demand, Demand]]:
        return [bucket for bucket in self.buckets if bucket[0] >= now - seconds] or [self.buckets[-1]]

    def _put(self, at: float, demand: Demand, bucket_seconds: float) -> None:
        if self.buckets and at < self.buckets[-1][0] + bucket_seconds:
            start, least, most = self.buckets[-1]
            if demand.pods < least.pods:
                least = demand
            if demand.pods > most.pods:
                most = demand
            self.buckets[-1] = (start, least, most)
        else:
            self.buckets.append((at, demand, demand))
            while len(self.buckets) > BUCKETS + 2:
                self.buckets.popleft()

    def _forget(self) -> None:
        self.moments.clear()
        self.buckets.clear()
        self.known_since = self.demand = self._last = None


@dataclass(slots=True, eq=False)
class History:
    """One service. `decide` reads it; `add` is the only change."""

    tracks: dict[str, Track] = field(default_factory=dict)  # by role
    signals: Signals | None = None  # the last ones
    idle_since: float | None = None

    def add(self, signals: Signals, spec: InferenceServiceSpec, longest_window: float) -> None:
        """One more scrape; windows up to that many seconds can be asked for."""
        bucket = max(SHORTEST_BUCKET, longest_window / BUCKETS)
        for role in signals.roles:
            self.tracks.setdefault(role, Track()).add(signals, role, Targets.of(spec, role), bucket)
        before = self.signals
        is_quiet = signals.is_idle and (before is None or signals.is_quiet_since(before))
        if not is_quiet or (before is not None and signals.at - before.at > LONGEST_GAP):
            self.idle_since = None
        if is_quiet and self.idle_since is None:
            self.idle_since = signals.at
        self.signals = signals

    def idle_seconds(self, now: float) -> float:
        """For how long nobody has wanted anything, for certain."""
        return 0.0 if self.idle_since is None else now - self.idle_since
