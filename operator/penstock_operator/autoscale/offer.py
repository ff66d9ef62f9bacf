"""What HPAs and KEDA are told of a service: the same on every replica of the operator, and never old news."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock_operator.autoscale.loop import Autoscaler
from penstock_operator.duration import parse_duration
from penstock_operator.names import Key

FRESH_SECONDS = 30.0  # after which what was seen says nothing of now


@dataclass(frozen=True, slots=True)
class Offer:
    """Answers for others."""

    autoscaler: Autoscaler
    clock: Callable[[], float]  # seconds since the epoch

    def pods_needed(self, key: Key, role: str) -> float | None:
        """How many pods the role's work would keep busy; None if that is not known now.

        Where none is ready yet, those that start are needed, and at zero one as soon as a request waits.
        """
        watched = self.autoscaler.watched(key)
        track = None if watched is None else watched.history.tracks.get(role)
        signals = None if watched is None else watched.history.signals
        if signals is None or track is None or track.is_missing or not self._is_fresh(key):
            return None
        if track.demand is not None:
            return track.demand.pods
        if not signals.has_router or signals.is_router_missing:
            return None
        return float(max(signals.roles[role].num_starting, bool(signals.held or signals.in_flight)))

    def is_active(self, key: Key) -> bool | None:
        """False if the service may have no pods at all; None if that is not known now."""
        watched = self.autoscaler.watched(key)
        autoscaling = None if watched is None else watched.service.spec.autoscaling
        if watched is None or autoscaling is None or not self._is_fresh(key):
            return None
        after = autoscaling.scale_to_zero_after
        return after is None or watched.history.idle_seconds(self.clock()) < parse_duration(after)

    def _is_fresh(self, key: Key) -> bool:
        watched = self.autoscaler.watched(key)
        signals = None if watched is None else watched.history.signals
        return signals is not None and signals.at > self.clock() - FRESH_SECONDS
