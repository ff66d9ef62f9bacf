"""What the operator answers: the status of an InferenceService, and RoleScalers as a whole.

`msgspec.to_builtins` turns these into what JSON has; fields that have their default are left out, except the required.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from penstock_operator.api.rules import Rule, by_key
from penstock_operator.api.scalars import Name, Part, Replicas

Count = Annotated[int, Meta(ge=0)]
Time = Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"})]  # RFC 3339
RoleName = Literal["both", "prefill", "decode"]
Sentence = Annotated[str, Meta(max_length=32768)]
Reason = Annotated[str, Meta(max_length=128)]
ConditionType = Literal[
    "Ready",
    "Reconciling",
    "Stalled",
    "ModelReady",
    "PrefillReady",
    "DecodeReady",
    "RouterReady",
    "ScalingActive",
]


class Condition(Part, frozen=True, kw_only=True):
    """One side of the state, as Kubernetes' own objects have it."""

    type: Annotated[ConditionType, Meta(description="which side")]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="whether it is so")]
    reason: Annotated[Reason, Meta(min_length=1, description="one word for programs")]
    message: Annotated[Sentence, Meta(description="a sentence for people")]
    last_transition_time: Annotated[Time, Meta(description="when `status` last changed")]
    observed_generation: Annotated[Count | None, Meta(description="generation of the spec that this is about")] = None


class RoleStatus(Part, frozen=True, kw_only=True):
    """Pods of one role, or of the router."""

    desired: Annotated[Count, Meta(description="how many there should be")]
    ready: Annotated[Count, Meta(description="how many take requests")]
    replicas: Annotated[Count | None, Meta(description="how many there are, of all revisions")] = None
    updated: Annotated[Count | None, Meta(description="how many are of the newest revision")] = None
    revision: Annotated[str, Meta(max_length=63, description="the newest one")] = ""


class ModelStatus(Part, frozen=True, kw_only=True):
    """How far the shared cache is filled."""

    phase: Annotated[Literal["Pending", "Downloading", "Ready", "Failed"], Meta(description="of the download")]
    bytes_done: Annotated[Count | None, Meta(description="that are there")] = None
    bytes_total: Annotated[Count | None, Meta(description="of the whole model")] = None
    message: Annotated[Sentence, Meta(description="a sentence for people")] = ""


class Decision(Part, frozen=True, kw_only=True, rename={"from_": "from", "limited_by": "limitedBy"}):
    """A number of pods that was changed, and why."""

    time: Annotated[Time, Meta(description="of the decision")]
    role: Annotated[RoleName, Meta(description="whose number it is")]
    from_: Annotated[Count, Meta(description="pods before")]
    to: Annotated[Count, Meta(description="pods from then on")]
    signal: Annotated[Reason, Meta(description="what was looked at, such as queue seconds or KV utilization")]
    value: Annotated[float | None, Meta(description="of the signal")] = None
    target: Annotated[float | None, Meta(description="what it should be")] = None
    limited_by: Annotated[Reason, Meta(description="what kept it from going further, such as max or gpuBudget")] = ""
    message: Annotated[Sentence, Meta(description="the same as a sentence")] = ""


class AutoscalingStatus(Part, frozen=True, kw_only=True):
    """What the autoscaler did last."""

    mode: Annotated[
        Literal["Builtin", "HPA", "KEDA", "Advisory"] | None, Meta(description="the one that is at work")
    ] = None
    last_decisions: Annotated[tuple[Decision, ...], Meta(max_length=16, description="newest first")] = ()


class DrainingPod(Part, frozen=True, kw_only=True):
    """A pod that takes no new requests and ends when its last one has."""

    pod: Annotated[Name, Meta(description="its name")]
    since: Annotated[Time, Meta(description="when it was told")]
    requests: Annotated[Count | None, Meta(description="that still run on it")] = None


class InferenceServiceStatus(Part, frozen=True, kw_only=True):
    """What is the case, as far as the operator has seen."""

    observed_generation: Annotated[
        Annotated[int, Meta(ge=-1)], Meta(description="generation of the spec that the rest is about; -1: none yet")
    ]
    conditions: Annotated[
        tuple[Condition, ...],
        Meta(max_length=16, description="the state, side by side", extra_json_schema=by_key("type")),
    ] = ()
    url: Annotated[str, Meta(max_length=1024, description="of the OpenAI API, inside the cluster")] = ""
    revision: Annotated[str, Meta(max_length=63, description="of the pods that are wanted")] = ""
    summary: Annotated[Sentence, Meta(description="ready and wanted pods of all roles, such as 2/2P 3/4D")] = ""
    roles: Annotated[dict[str, RoleStatus], Meta(max_length=3, description="by name: both, or prefill and decode")] = (
        msgspec.field(default_factory=dict)
    )
    router: RoleStatus | None = None
    model: ModelStatus | None = None
    autoscaling: AutoscalingStatus | None = None
    draining: Annotated[
        tuple[DrainingPod, ...], Meta(max_length=1024, description="pods that end when their requests have")
    ] = ()


class RoleScalerSpec(Part, frozen=True, kw_only=True):
    """How many pods of a role somebody asks for: a person by `kubectl scale`, an autoscaler, or the operator's own."""

    RULES = (
        Rule(
            "self.service == oldSelf.service && self.role == oldSelf.role",
            "service and role cannot be changed: scale the RoleScaler of the other role instead",
        ),
    )

    service: Annotated[Name, Meta(description="InferenceService in the same namespace")]
    role: Annotated[RoleName, Meta(description="both is the one role of a service without prefill")]
    replicas: Annotated[
        Replicas, Meta(description="a request: the service's fixed replicas, limits and GPU budget come first")
    ]


class RoleScalerStatus(Part, frozen=True, kw_only=True):
    """What became of the request."""

    observed_generation: Annotated[
        Annotated[int, Meta(ge=-1)], Meta(description="generation of the spec that the rest is about; -1: none yet")
    ]
    replicas: Annotated[Count | None, Meta(description="pods that take new requests")] = None
    selector: Annotated[str, Meta(max_length=1024, description="of those pods, as a label selector")] = ""
    desired: Annotated[Count | None, Meta(description="pods that are wanted, after all limits")] = None
    limited_by: Annotated[
        Reason, Meta(description="why `desired` is not what was asked for: replicas, min, max, gpuBudget, suspend")
    ] = ""
