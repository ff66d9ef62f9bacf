"""How `penstock bench router` finds saturation and what it calls added."""

from __future__ import annotations

import pytest

from penstock.bench.router import FIRST_RATE, added_rows, latencies, saturation
from penstock.bench.stream_client import Stream


def test_finds_the_highest_rate_that_is_sustained_within_a_few_percent():
    asked = []

    def sustain(rate: float) -> float | None:
        asked.append(rate)
        return rate / 333 if rate <= 333 else None

    rate, busy = saturation(sustain)
    assert 333 * 0.9 <= rate <= 333
    assert busy == pytest.approx(rate / 333)
    assert len(asked) < 12


def test_a_router_that_cannot_sustain_anything_has_a_low_rate():
    assert saturation(lambda rate: None)[0] < FIRST_RATE


def test_what_is_added_is_the_difference_between_both_ways():
    direct = latencies([Stream(due=0.0, first=0.001, stamps=[1], ages=[0.001, 0.001])])
    routed = latencies([Stream(due=0.0, first=0.004, stamps=[1], ages=[0.002, 0.002])])
    rows = {row.name.rpartition(": ")[2]: row for row in added_rows([direct], [routed])}
    assert rows["first event p50"].value == pytest.approx(3)
    assert rows["event p99"].value == pytest.approx(1)
    assert (rows["event p50"].limit, rows["event p99"].limit) == (2.0, 10.0)
