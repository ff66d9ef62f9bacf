"""Times that come again and again: cron expressions of five fields, in the time zone of whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from penstock_operator.errors import SpecError

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
LONGEST = 366 * 86_400.0  # seconds that a schedule's duration is looked back for


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    """A parsed expression."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    is_any_day: bool  # days of the month were `*`
    is_any_weekday: bool
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str, time_zone: str | None = None) -> Cron:
        """Raises `SpecError` that says what is wrong."""
        words = text.split()
        if len(words) != len(FIELDS):
            raise SpecError(
                "InvalidSchedule", f"{text!r} is no cron expression: five fields are needed, as in 0 8 * * 1-5"
            )
        sets = [_parse_field(word, *field) for word, field in zip(words, FIELDS, strict=True)]
        try:
            zone = ZoneInfo(time_zone or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise SpecError(
                "InvalidSchedule", f"{time_zone!r} is no time zone; write one such as Europe/Berlin"
            ) from None
        return cls(
            minutes=sets[0],
            hours=sets[1],
            days=sets[2],
            months=sets[3],
            weekdays=frozenset(day % 7 for day in sets[4]),
            is_any_day=words[2].startswith("*"),
            is_any_weekday=words[4].startswith("*"),
            zone=zone,
        )

    def latest(self, now: float, within: float) -> float | None:
        """When it last came, at or before `now` and not more than `within` seconds ago; seconds since the epoch."""
        earliest = now - min(within, LONGEST)
        moment = datetime.fromtimestamp(now - now % 60, UTC)
        day = moment.astimezone(self.zone).date()
        while datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp() + 26 * 3600 > earliest:
            if self._is_day(day.month, day.day, day.isoweekday() % 7):
                times = self._times(datetime(day.year, day.month, day.day, tzinfo=self.zone))
                if good := [time for time in times if earliest < time <= now]:
                    return max(good)
            day -= timedelta(days=1)
        return None

    def _is_day(self, month: int, day: int, weekday: int) -> bool:
        """Cron's own rule: if both kinds of day are restricted, either is enough."""
        is_day, is_weekday = day in self.days, weekday in self.weekdays
        both = self.is_any_day or self.is_any_weekday
        return month in self.months and (is_day and is_weekday if both else is_day or is_weekday)

    def _times(self, midnight: datetime) -> list[float]:
        return [
            midnight.replace(hour=hour, minute=minute).timestamp() for hour in self.hours for minute in self.minutes
        ]


def _parse_field(word: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            start, end = (low, high) if span == "*" else (_number(first, name), _number(last if dash else first, name))
            size = int(step) if slash else 1
        except ValueError:
            raise SpecError("InvalidSchedule", f"{part!r} means nothing as the {name} of a schedule") from None
        end = high if slash and not dash and span != "*" else end
        if not low <= start <= end <= high or size < 1:
            raise SpecError("InvalidSchedule", f"{part!r} is no {name}: it must be within {low} to {high}")
        found.update(range(start, end + 1, size))
    return frozenset(found)


def _number(word: str, name: str) -> int:
    names = NAMES.get(name, ())
    if word.lower() in names:
        return names.index(word.lower()) + (name == "month")
    if not word.isdecimal():
        raise ValueError(word)
    return int(word)
