"""What the operator measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """One registry of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "penstock_operator_reconciles", "services looked at", ["result"], registry=self.registry
        )
        self.reconcile_seconds = Histogram(
            "penstock_operator_reconcile_seconds", "time of one look at a service", registry=self.registry
        )
        self.api_calls = Counter(
            "penstock_operator_api_calls",
            "calls to the API server; code 0: no answer",
            ["verb", "code"],
            registry=self.registry,
        )
        self.api_seconds = Histogram(
            "penstock_operator_api_seconds", "time of calls to the API server", ["verb"], registry=self.registry
        )
        self.missed = Counter(
            "penstock_operator_missed_events",
            "objects that a list knew better than the watch",
            ["kind"],
            registry=self.registry,
        )

        self.decisions = Counter(
            "penstock_operator_scaling_decisions",
            "times that the autoscaler changed a number of pods, or reached a limit",
            ["namespace", "service", "role", "signal", "direction"],
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for at each scrape; `penstock_operator_` goes before the name."""
        Gauge(f"penstock_operator_{name}", text, registry=self.registry).set_function(value)

    def tell_call(self, verb: str, status: int, seconds: float) -> None:
        """A call to the API server has ended."""
        self.api_calls.labels(verb, str(status)).inc()
        self.api_seconds.labels(verb).observe(seconds)

    def page(self) -> bytes:
        """All of it, as text."""
        return generate_latest(self.registry)
