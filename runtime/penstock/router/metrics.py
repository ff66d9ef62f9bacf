"""Counts what the router does, and shows Prometheus what all its workers have done and know of the pods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from penstock.errors import Overloaded, RequestError, TenantLimit, Unauthorized
from penstock.internal.fleet import RouterTotals
from penstock.router.endpoint import Endpoint, State
from penstock.router.endpoints import EndpointTable
from penstock.router.ledger import Ledger
from penstock.router.metric_names import ENDPOINT_GAUGES, ENDPOINT_LABELS, STATUSES, build_families
from penstock.server.metric_table import MetricTable

PREFIX = "penstock_router_"


class Metrics(Collector):
    """One per worker. `folder` is shared by the workers; without one this is the only one."""

    def __init__(
        self, table: EndpointTable, ledger: Ledger, *, version: str, folder: Path | None = None, slot: int = 0
    ) -> None:
        self._pods, self._ledger = table, ledger
        self._table = MetricTable(build_families(version), folder=folder, slot=slot)
        self._values, self._slots = self._table.values, self._table.first_slots
        self._added = self._table.histogram(PREFIX + "added_ttft_seconds")
        self._wait = self._table.histogram(PREFIX + "wait_seconds")
        name = PREFIX + "http_responses_total"
        self._statuses = {status: self._table.slot(name, str(status)) for status in STATUSES}
        self._other_status = self._table.slot(name, "other")
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._values[self._slots[PREFIX + "build_info"]] = 1.0

    # -- what happens

    def count_response(self, status: int) -> None:
        """An answer has begun."""
        self._values[self._statuses.get(status, self._other_status)] += 1.0

    def count_error(self, error: RequestError, *, is_up: bool) -> None:
        """The router refused a request itself."""
        match error:
            case TenantLimit():
                reason = "tenant"
            case Overloaded():
                reason = "capacity" if is_up else "unavailable"
            case Unauthorized():
                reason = "unauthorized"
            case _:
                return
        self._values[self._table.slot(PREFIX + "rejections_total", reason)] += 1.0

    def count_first(self, *, waited: float, added: float) -> None:
        """The first of an answer went out."""
        self._wait.observe(waited)
        self._added.observe(added)

    def count_completed(self) -> None:
        """An answer went out to its end."""
        self._add("completed_total")

    def count_resume(self) -> None:
        """A pod is told a request that another had."""
        self._add("resumes_total")

    def count_loss(self) -> None:
        """A pod was lost with a request."""
        self._add("losses_total")

    def count_move(self) -> None:
        """A pod gave a request up."""
        self._add("moves_total")

    def count_retry(self) -> None:
        """A pod did not take a request."""
        self._add("retries_total")

    def count_disconnect(self) -> None:
        """A client left."""
        self._add("disconnects_total")

    def count_repeat(self) -> None:
        """A retry got the answer of the first try."""
        self._add("repeats_total")

    def count_in_flight(self, change: int) -> None:
        """A request began or ended."""
        self._add("requests_in_flight", change)

    def count_body(self, change: int) -> None:
        """A request's body is kept, or not any more."""
        self._add("body_bytes", change)

    def set_held(self, number: int) -> None:
        """So many wait at this worker's door."""
        self._values[self._slots[PREFIX + "requests_held"]] = float(number)

    def _add(self, name: str, change: float = 1.0) -> None:
        self._values[self._slots[PREFIX + name]] += change

    # -- what is shown

    def page(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry prints: all workers merged, then the pods."""
        yield from self._table.build_families(self._table.merged())
        families = {
            name: GaugeMetricFamily(name, text, labels=ENDPOINT_LABELS) for name, text in ENDPOINT_GAUGES.items()
        }
        for endpoint in self._pods:
            labels = (endpoint.address, endpoint.role)
            for name, value in self._numbers(endpoint).items():
                families[f"{PREFIX}endpoint_{name}"].add_metric(labels, value)
        yield from families.values()

    def _numbers(self, endpoint: Endpoint) -> dict[str, float]:
        """A pod's numbers now: what it said last, corrected by what we have sent it and it has ended since."""
        num_own, load = self._ledger.count(endpoint.address), endpoint.load
        numbers = {"up": float(endpoint.state is State.READY), "requests_in_flight": float(num_own)}
        if load is None or endpoint.state is State.DOWN:
            rest = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio", "waiting_tokens")
            return numbers | dict.fromkeys(rest, 0.0)
        growth = num_own - endpoint.num_polled_own
        running = max(0, load.running + min(0, growth + load.waiting))
        waiting = max(0, load.waiting + growth)
        return numbers | {
            "num_requests_running": float(running),
            "num_requests_waiting": float(waiting),
            "kv_cache_usage_ratio": load.kv_usage if running + waiting else 0.0,
            "waiting_tokens": float(load.queued_tokens if waiting else 0),
        }

    def totals(self) -> RouterTotals:
        """The same for `GET /fleet`."""
        merged = self._table.merged()

        def read(name: str, length: int = 1) -> int:
            start = self._slots[PREFIX + name]
            return int(merged[start : start + length].sum())

        return RouterTotals(
            in_flight=read("requests_in_flight"),
            held=read("requests_held"),
            completed=read("completed_total"),
            rejected=read("rejections_total", 4),
            resumed=read("resumes_total"),
        )
