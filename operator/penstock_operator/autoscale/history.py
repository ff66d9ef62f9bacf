"""What a service's roles needed lately: as much as windows look back, in little memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from penstock_operator.api.v1alpha1 import InferenceServiceSpec
from penstock_operator.autoscale.demand import BUSY_SECONDS, Demand, Targets, demand_of
from penstock_operator.autoscale.moment import Moment
from penstock_operator.autoscale.signals import RoleLoad, Signals
from penstock_operator.names import PREFILL

BUCKETS = 60  # parts that a window is kept in
LONGEST_GAP = 30.0  # seconds between two samples, beyond which what was between them is not known


@dataclass(slots=True, eq=False)
class Window:
    """The least and the greatest need of the last `seconds`. Each window has parts of its own size: a long one that is
    looked back on before there are fewer pods must not make it take longer until there are more.
    """

    seconds: float
    since: float | None = None  # from when on there were whole samples without a long gap
    parts: deque[tuple[float, Demand, Demand]] = field(default_factory=deque)  # (start, least, greatest), oldest first

    def add(self, at: float, demand: Demand) -> None:
        """One more sample."""
        self.since = at if self.since is None else self.since
        size = self.seconds / BUCKETS
        if self.parts and at < self.parts[-1][0] + size:
            start, least, most = self.parts[-1]
            least, most = min(least, demand, key=_pods), max(most, demand, key=_pods)
            self.parts[-1] = (start, least, most)
        else:
            self.parts.append((at, demand, demand))
        while self.parts[0][0] < at - self.seconds - size:
            self.parts.popleft()

    def within(self, now: float) -> list[tuple[float, Demand, Demand]]:
        """Its parts; none if not all of it is known."""
        if self.since is None or self.since > now - self.seconds:
            return []
        return [part for part in self.parts if part[0] >= now - self.seconds] or [self.parts[-1]]


@dataclass(slots=True, eq=False)
class Track:
    """One role."""

    moments: deque[Moment] = field(default_factory=deque)
    is_missing: bool = False  # the last sample was not whole
    demand: Demand | None = None  # now
    windows: dict[float, Window] = field(default_factory=dict)  # by their seconds
    _last: tuple[float, RoleLoad] | None = None  # the last whole sample
    _finished: int = 0  # in it

    def add(self, signals: Signals, role: str, targets: Targets, windows: Iterable[float]) -> None:
        """One more sample. `windows`: how many seconds will be looked back."""
        at, load, held = signals.at, signals.roles[role], 0 if role == PREFILL else signals.held
        self.windows = {seconds: self.windows.get(seconds) or Window(seconds=seconds) for seconds in windows}
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
        for window in self.windows.values():
            window.add(at, self.demand)

    def greatest(self, now: float, seconds: float) -> Demand | None:
        """Over one of the windows; None if not all of it is known."""
        return max((most for _, _, most in self._within(now, seconds)), key=_pods, default=None)

    def least(self, now: float, seconds: float) -> Demand | None:
        """Over one of the windows; None if not all of it is known, or nothing but one sample is."""
        if len(self.moments) < 2:
            return None
        return min((least for _, least, _ in self._within(now, seconds)), key=_pods, default=None)

    def _within(self, now: float, seconds: float) -> list[tuple[float, Demand, Demand]]:
        window = self.windows.get(seconds)
        return [] if window is None else window.within(now)

    def _forget(self) -> None:
        self.moments.clear()
        self.windows = {seconds: Window(seconds=seconds) for seconds in self.windows}
        self.demand = self._last = None


def _pods(demand: Demand) -> float:
    return demand.pods


@dataclass(slots=True, eq=False)
class History:
    """One service. `decide` reads it; `add` is the only change."""

    tracks: dict[str, Track] = field(default_factory=dict)  # by role
    signals: Signals | None = None  # the last ones
    idle_since: float | None = None

    def add(self, signals: Signals, spec: InferenceServiceSpec, windows: Iterable[float]) -> None:
        """One more scrape; `windows`: of how many seconds will be asked for."""
        for role in signals.roles:
            self.tracks.setdefault(role, Track()).add(signals, role, Targets.of(spec, role), windows)
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
