"""Figures of one load from its exchanges: percentiles, goodput, and what became of the requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.bench.load_generator import Exchange

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A request is good if its first token and the 99th percentile of its gaps are in time (seconds)."""

    first: float
    gap: float

    def is_met(self, exchange: Exchange) -> bool:
        """Whether a request was answered whole and in time."""
        if not exchange.is_complete or exchange.time_to_first > self.first:
            return False
        return not exchange.gaps or float(np.percentile(exchange.gaps, 99)) <= self.gap


def summarize(exchanges: Sequence[Exchange], begin: float, end: float, objective: Objective) -> dict[str, float]:
    """Figures by name, over the requests that were due between `begin` and `end` (seconds): times in milliseconds,
    rates per second. Times without a single completed request are NaN."""
    counted = [exchange for exchange in exchanges if begin <= exchange.due < end]
    done = [exchange for exchange in counted if exchange.is_complete]
    seconds = end - begin
    times = {
        "TTFT": [exchange.time_to_first for exchange in done],
        "ITL": [gap for exchange in done for gap in exchange.gaps],
        "E2E": [exchange.events[-1] - exchange.due for exchange in done],
    }
    figures = {
        f"{name} p{percentile}": float(np.percentile(values, percentile)) * 1000 if values else float("nan")
        for name, values in times.items()
        for percentile in PERCENTILES
    }
    return figures | {
        "offered": len(counted) / seconds,
        "completed": len(done) / seconds,
        "rejected": sum(exchange.status in (429, 503) for exchange in counted) / seconds,
        "failed": sum(not e.is_complete and e.status not in (429, 503) for e in counted) / seconds,
        "goodput": sum(objective.is_met(exchange) for exchange in counted) / seconds,
        "output": sum(exchange.num_tokens for exchange in done) / seconds,
        "client late p99": client_late(counted),
    }


def client_late(exchanges: Sequence[Exchange]) -> float:
    """How late requests were sent, 99th percentile in milliseconds: beyond a few, the client was the bottleneck."""
    late = [exchange.sent - exchange.due for exchange in exchanges if exchange.sent == exchange.sent]
    return float(np.percentile(late, 99)) * 1000 if late else float("nan")


def unit_of(name: str) -> str:
    """The unit of a figure."""
    if name == "output":
        return "tok/s"
    return "ms" if " p" in name else "req/s"
