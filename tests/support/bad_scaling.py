"""Specs that are refused for what they say of autoscaling."""

from __future__ import annotations

from support.bad_spec import Bad
from support.good_specs import MODEL, PD, Spec


def _scaling(**fields: object) -> Spec:
    return PD | {"autoscaling": {"mode": "Builtin"} | fields}


def _schedule(**fields: object) -> Spec:
    schedule = {"name": "day", "start": "0 8 * * *", "duration": "8h", "decode": {"min": 2}}
    return _scaling(decode={}, schedules=[schedule | fields])


_DAY = "spec.autoscaling.schedules[0]"

BAD_SCALING: dict[str, Bad] = {
    "min above max": Bad(
        spec=_scaling(decode={"min": 5, "max": 2}),
        field="spec.autoscaling.decode",
        says="write a min of at most max",
        is_of_parts=True,
    ),
    "a negative min": Bad(
        spec=_scaling(decode={"min": -1}), field="spec.autoscaling.decode.min", says="greater than or equal to 0"
    ),
    "a max of a billion": Bad(
        spec=_scaling(decode={"max": 10**9}), field="spec.autoscaling.decode.max", says="less than or equal to 10000"
    ),
    "a min above max at certain times": Bad(
        spec=_schedule(decode={"min": 5, "max": 2}),
        field=f"{_DAY}.decode",
        says="write a min of at most max",
        is_of_parts=True,
    ),
    "a max of 0": Bad(
        spec=_scaling(decode={"max": 0}), field="spec.autoscaling.decode.max", says="greater than or equal to 1"
    ),
    "autoscaling of no mode": Bad(
        spec=MODEL | {"autoscaling": {}}, field="spec.autoscaling", says="write mode: Builtin"
    ),
    "replicas of a role that is scaled": Bad(
        spec=_scaling(decode={"max": 4}) | {"decode": {"replicas": 2}},
        field="spec",
        says="decode.replicas and autoscaling.decode exclude each other",
        is_of_parts=True,
    ),
    "prefill replicas of a role that is scaled": Bad(
        spec=_scaling(prefill={"max": 4}) | {"prefill": {"replicas": 2}},
        field="spec",
        says="prefill.replicas and autoscaling.prefill exclude each other",
        is_of_parts=True,
    ),
    "autoscaling with nothing to scale": Bad(
        spec=MODEL | {"decode": {"replicas": 2}, "autoscaling": {"mode": "HPA"}},
        field="spec",
        says="leave decode.replicas out, or use mode: Advisory",
        is_of_parts=True,
    ),
    "scaling of prefill that is not there": Bad(
        spec=MODEL | {"autoscaling": {"mode": "Builtin", "prefill": {"max": 2}}},
        field="spec",
        says="write prefill: {}",
        is_of_parts=True,
    ),
    "autoscaling between no numbers": Bad(
        spec=MODEL | {"autoscaling": {"mode": "Builtin"}},
        field="spec.autoscaling",
        says="as in decode: {max: 4}",
        is_of_parts=True,
    ),
    "a schedule for what is not scaled": Bad(
        spec=PD
        | {
            "autoscaling": {
                "mode": "Builtin",
                "prefill": {},
                "schedules": [{"name": "day", "start": "0 8 * * *", "duration": "8h", "decode": {"min": 2}}],
            }
        },
        field="spec.autoscaling",
        says="decode: {} beside schedules",
        is_of_parts=True,
    ),
    "zero without a router": Bad(
        spec=_scaling(scaleToZeroAfter="10m") | {"router": {"enabled": False}},
        field="spec",
        says="leave router.enabled out",
        is_of_parts=True,
    ),
    "zero with a fixed role": Bad(
        spec=_scaling(scaleToZeroAfter="10m") | {"prefill": {"replicas": 1}},
        field="spec",
        says="leave replicas of prefill and decode out",
        is_of_parts=True,
    ),
    "zero after no time": Bad(
        spec=_scaling(scaleToZeroAfter="0s"), field="spec.autoscaling.scaleToZeroAfter", says="write a duration above 0"
    ),
    "a negative budget": Bad(
        spec=_scaling(gpuBudget=-8), field="spec.autoscaling.gpuBudget", says="greater than or equal to 1"
    ),
    "more than all of the cache": Bad(
        spec=_scaling(decode={"targetKVUtilization": 101}),
        field="spec.autoscaling.decode.targetKVUtilization",
        says="less than or equal to 100",
    ),
    "a schedule at minute 61": Bad(
        spec=_schedule(start="61 8 * * *"), field=f"{_DAY}.start", says="write minute, hour, day, month and weekday"
    ),
    "a schedule of four fields": Bad(
        spec=_schedule(start="8 * * *"), field=f"{_DAY}.start", says="write minute, hour, day, month and weekday"
    ),
    "a schedule that changes nothing": Bad(
        spec=_scaling(schedules=[{"name": "day", "start": "0 8 * * *", "duration": "8h"}]),
        field=_DAY,
        says="give it prefill or decode",
        is_of_parts=True,
    ),
    "two schedules of one name": Bad(
        spec=_scaling(schedules=[_schedule()["autoscaling"]["schedules"][0]] * 2),
        field="spec.autoscaling.schedules[1]",
        says="Duplicate value",
        is_of_parts=True,
    ),
    "a schedule that never ends": Bad(
        spec=_scaling(decode={}, schedules=[{"name": "day", "start": "0 8 * * *", "decode": {}}]),
        field=_DAY,
        says="write duration: 10h",
    ),
}
