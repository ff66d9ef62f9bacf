"""The parts of a spec about how many pods there are."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from penstock_operator.api.rules import IF_MISSING, IF_WRONG, Rule, by_key
from penstock_operator.api.scalars import Duration, Name, Part, Replicas, TimeSpan, Word


def _cron_field(number: str) -> str:
    item = rf"(\*|{number}(-{number})?)(/[1-9][0-9]?)?"
    return rf"{item}(,{item})*"


_CRON_FIELDS = (
    "[0-5]?[0-9]",
    "([01]?[0-9]|2[0-3])",
    "(0?[1-9]|[12][0-9]|3[01])",
    "(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))",
    "([0-7]|(?i:sun|mon|tue|wed|thu|fri|sat))",
)
CRON = "^" + " +".join(map(_cron_field, _CRON_FIELDS)) + "$"


class Range(Part, frozen=True, kw_only=True):
    """How many pods there may be."""

    RULES = (
        Rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max", "min is above max: write a min of at most max"
        ),
    )

    min: Annotated[Replicas | None, Meta(description="default: 1")] = None
    max: Annotated[Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="default: min, or 1")] = None


class PrefillScaling(Range, frozen=True, kw_only=True):
    """When there are more prefill pods."""

    target_queue_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=3600)] | None, Meta(description="of work that waits, per pod; default: 1")
    ] = None


class DecodeScaling(Range, frozen=True, kw_only=True):
    """When there are more decode pods, or pods of the one role, without prefill."""

    target_kv_utilization: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="of the KV cache, in percent; default: 80")
    ] = msgspec.field(default=None, name="targetKVUtilization")


class Schedule(Part, frozen=True, kw_only=True):
    """Other limits at certain times."""

    RULES = (Rule("has(self.prefill) || has(self.decode)", "the schedule changes nothing: give it prefill or decode"),)

    name: Annotated[Name, Meta(description="in the decisions that it causes")]
    start: Annotated[
        str,
        Meta(
            pattern=CRON,
            max_length=100,
            description="minute, hour, day, month and weekday, as cron has them: 0 8 * * mon-fri",
            extra_json_schema={IF_WRONG: "write minute, hour, day, month and weekday: 0 8 * * mon-fri"},
        ),
    ]
    duration: Annotated[
        TimeSpan, Meta(description="from each start", extra_json_schema={IF_MISSING: "write duration: 10h"})
    ]
    time_zone: Annotated[Word | None, Meta(description="IANA name; default: UTC")] = None
    prefill: Annotated[Range | None, Meta(description="instead of autoscaling.prefill, as far as it says")] = None
    decode: Annotated[Range | None, Meta(description="instead of autoscaling.decode, as far as it says")] = None


class Windows(Part, frozen=True, kw_only=True):
    """For how long a signal must stand before it is followed."""

    up: Annotated[Duration | None, Meta(description="default: 0s")] = None
    down: Annotated[Duration | None, Meta(description="default: 5m")] = None


class Autoscaling(Part, frozen=True, kw_only=True):
    """Who sets the number of pods, and by what."""

    RULES = (
        Rule(
            "has(self.prefill) || has(self.decode) || has(self.scaleToZeroAfter)",
            "nothing is scaled: say between which numbers, as in decode: {max: 4}",
        ),
        Rule(
            "!has(self.schedules) || self.schedules.all(one, (!has(one.prefill) || has(self.prefill))"
            " && (!has(one.decode) || has(self.decode)))",
            "a schedule changes limits that are there: write prefill: {} or decode: {} beside schedules too",
        ),
    )

    mode: Annotated[
        Literal["Builtin", "HPA", "KEDA", "Advisory"],
        Meta(
            description="Builtin: this operator; HPA, KEDA: those, by our metrics; Advisory: nobody, only a report",
            extra_json_schema={IF_MISSING: "write mode: Builtin, where nothing else is to scale"},
        ),
    ]
    prefill: PrefillScaling | None = None
    decode: DecodeScaling | None = None
    gpu_budget: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None, Meta(description="GPUs that both roles together may request")
    ] = None
    scale_to_zero_after: Annotated[TimeSpan | None, Meta(description="without a request; default: never")] = None
    windows: Windows | None = None
    schedules: Annotated[
        tuple[Schedule, ...],
        Meta(max_length=16, description="other limits at certain times", extra_json_schema=by_key("name")),
    ] = ()


class Slo(Part, frozen=True, kw_only=True):
    """What clients are promised; autoscaling keeps to it."""

    ttft: Annotated[TimeSpan | None, Meta(description="time to first token")] = None
    itl: Annotated[TimeSpan | None, Meta(description="between tokens")] = None
