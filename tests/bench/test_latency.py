"""Figures from exchanges whose times are known."""

from __future__ import annotations

import math

import pytest

from penstock.bench.latency import Objective, summarize, unit_of
from penstock.bench.load_generator import Exchange

OBJECTIVE = Objective(first=0.2, gap=0.05)


def exchange(due: float, *, first: float = 0.1, gap: float = 0.01, status: int = 200) -> Exchange:
    events = [due + first + gap * index for index in range(11)]
    is_complete = status == 200
    return Exchange(
        due=due,
        sent=due + 0.002,
        status=status,
        events=events if is_complete else [],
        num_tokens=11 if is_complete else 0,
        is_complete=is_complete,
    )


def test_times_rates_and_tokens_come_from_completed_requests():
    figures = summarize([exchange(1.0), exchange(2.0, first=0.3)], 0.0, 4.0, OBJECTIVE)
    assert figures["TTFT p50"] == pytest.approx(200)
    assert figures["ITL p99"] == pytest.approx(10)
    assert figures["E2E p50"] == pytest.approx(300)
    assert (figures["offered"], figures["completed"], figures["output"]) == (0.5, 0.5, 5.5)
    assert figures["client late p99"] == pytest.approx(2)


def test_goodput_leaves_out_late_first_tokens_long_gaps_and_requests_without_an_answer():
    exchanges = [exchange(1.0), exchange(1.1, first=0.21), exchange(1.2, gap=0.06), exchange(1.3, status=503)]
    assert summarize(exchanges, 0.0, 2.0, OBJECTIVE)["goodput"] == 0.5


def test_refused_and_failed_requests_are_told_apart():
    figures = summarize([exchange(0.5, status=status) for status in (429, 503, 500, 0)], 0.0, 1.0, OBJECTIVE)
    assert (figures["rejected"], figures["failed"], figures["completed"]) == (2, 2, 0)
    assert math.isnan(figures["TTFT p50"])


def test_the_warm_up_is_not_counted():
    figures = summarize([exchange(0.5, first=9.0), exchange(1.5)], 1.0, 2.0, OBJECTIVE)
    assert figures["offered"] == 1
    assert figures["TTFT p99"] == pytest.approx(100)


def test_units_follow_names():
    assert [unit_of(name) for name in ("TTFT p50", "goodput", "output")] == ["ms", "req/s", "tok/s"]
