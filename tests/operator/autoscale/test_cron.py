from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_operator.autoscale.cron import Cron
from penstock_operator.errors import SpecError

HOUR, DAY = 3600.0, 86_400.0


def moment(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("cron", "now", "expected"),
    [
        ("0 8 * * *", "2026-03-02T09:30:00", "2026-03-02T08:00:00"),
        ("0 8 * * *", "2026-03-02T07:59:59", "2026-03-01T08:00:00"),
        ("*/15 * * * *", "2026-03-02T07:44:59", "2026-03-02T07:30:00"),
        ("0 8 * * mon-fri", "2026-03-08T12:00:00", "2026-03-06T08:00:00"),  # a Sunday
        ("30 22 1,15 * *", "2026-03-14T00:00:00", "2026-03-01T22:30:00"),
        ("0 0 13 * 5", "2026-03-13T00:00:00", "2026-03-13T00:00:00"),
        ("0 0 13 * 5", "2026-03-12T00:00:00", "2026-03-06T00:00:00"),  # either kind of day is enough
        ("0 12 * jan,dec 0", "2026-03-01T00:00:00", "2026-01-25T12:00:00"),
        ("0 12 * * 7", "2026-03-10T00:00:00", "2026-03-08T12:00:00"),  # 7 is Sunday too
        ("5/20 10 * * *", "2026-03-10T11:00:00", "2026-03-10T10:45:00"),
    ],
)
def test_a_schedule_came_last_when_cron_says_so(cron, now, expected):
    assert Cron.parse(cron).latest(moment(now), 90 * DAY) == moment(expected)


def test_a_schedule_is_over_after_its_duration():
    cron = Cron.parse("0 8 * * *")
    start = moment("2026-03-02T08:00:00")
    assert cron.latest(start - 1, 2 * HOUR) is None
    assert cron.latest(start, 2 * HOUR) == start
    assert cron.latest(start + 2 * HOUR - 1, 2 * HOUR) == start
    assert cron.latest(start + 2 * HOUR, 2 * HOUR) is None


def test_a_schedule_follows_the_clocks_of_its_time_zone_into_summer():
    cron = Cron.parse("0 8 * * *", "Europe/Berlin")
    assert cron.latest(moment("2026-03-28T12:00:00"), DAY) == moment("2026-03-28T07:00:00")
    assert cron.latest(moment("2026-03-29T12:00:00"), DAY) == moment("2026-03-29T06:00:00")


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    now=st.integers(1_700_000_000, 1_900_000_000),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Auckland"]),
)
def test_a_daily_schedule_came_within_the_last_day_or_an_hour_more(minute, hour, now, zone):
    last = Cron.parse(f"{minute} {hour} * * *", zone).latest(now, 30 * DAY)
    assert last is not None
    assert now - 25 * HOUR <= last <= now


@pytest.mark.parametrize(
    ("cron", "zone", "what"),
    [
        ("0 8 * *", None, "five fields"),
        ("60 8 * * *", None, "no minute"),
        ("0 8 0 * *", None, "no day of month"),
        ("0 8 * foo *", None, "month"),
        ("0 9-8 * * *", None, "no hour"),
        ("*/0 8 * * *", None, "no minute"),
        ("0 8 * * *", "Europe/Atlantis", "no time zone"),
        ("0 8 * * *", "../etc/passwd", "no time zone"),
    ],
)
def test_nonsense_is_refused_with_the_field_that_is_wrong(cron, zone, what):
    with pytest.raises(SpecError, match=what):
        Cron.parse(cron, zone)
