"""How `penstock bench router` finds saturation and what it calls added."""

from __future__ import annotations

import pytest

from penstock.bench.router import FIRST_RATE, Effort, added_rows, is_late, latencies, most_at_once, saturation
from penstock.bench.stream_client import Stream


def test_finds_the_highest_rate_that_is_sustained_within_a_few_percent():
    asked = []

    def sustain(rate: float) -> Effort | None:
        asked.append(rate)
        return Effort(busy=rate / 333, events_per_second=1.0) if rate <= 333 else None

    rate, effort = saturation(sustain)
    assert 333 * 0.9 <= rate <= 333
    assert effort.busy == pytest.approx(rate / 333)
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


def test_one_late_event_in_a_hundred_is_borne_and_more_are_not():
    def streams(num_late: int) -> list[Stream]:
        ages = [0.001] * (1000 - num_late) + [1.0] * num_late
        return [Stream(due=0.0, first=0.001, stamps=[1], ages=ages)]

    assert not is_late(streams(5))
    assert is_late(streams(15))
    assert is_late([Stream(due=0.0, first=9.0, stamps=[1], ages=[0.001])])
    assert is_late([Stream(due=0.0)])


def test_counts_how_many_streams_ran_at_one_moment():
    spans = [(0.0, 3.0), (1.0, 2.0), (1.5, 4.0), (3.5, 5.0)]
    assert most_at_once([Stream(due=0.0, first=first, last=last, stamps=[1]) for first, last in spans]) == 3
    assert most_at_once([Stream(due=0.0)]) == 0
