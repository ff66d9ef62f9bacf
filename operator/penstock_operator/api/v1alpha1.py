"""`penstock.dev/v1alpha1`: what people write, and what the operator answers.

Parsing, the CustomResourceDefinitions (`crds/`) and the reference (`docs/api-reference.md`) all come from these types,
which continue in `model.py`, `scaling.py` and `status.py`.
A field without a value means "not set": the operator decides then, and may decide better in its next version.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from penstock_operator.api.model import Engine as Engine
from penstock_operator.api.model import Model as Model
from penstock_operator.api.model import ModelCache as ModelCache
from penstock_operator.api.rules import IF_MISSING, Rule, by_key
from penstock_operator.api.scalars import (
    Annotations,
    Embedded,
    Hostname,
    Labels,
    Name,
    Named,
    Part,
    Quantity,
    Replicas,
    Share,
    Word,
    Words,
)
from penstock_operator.api.scaling import Autoscaling as Autoscaling
from penstock_operator.api.scaling import DecodeScaling as DecodeScaling
from penstock_operator.api.scaling import PrefillScaling as PrefillScaling
from penstock_operator.api.scaling import Range as Range
from penstock_operator.api.scaling import Schedule as Schedule
from penstock_operator.api.scaling import Slo as Slo
from penstock_operator.api.scaling import Windows as Windows

GROUP, VERSION = "penstock.dev", "v1alpha1"
LONGEST_NAME = 40  # of an InferenceService: children's names are longer, and labels take 63


HAS_ROUTER = "!has(self.router) || !has(self.router.enabled) || self.router.enabled"
IS_SCALED = "has(self.autoscaling) && self.autoscaling.mode != 'Advisory'"


class Resources(Part, frozen=True, kw_only=True):
    """Of one pod's container."""

    requests: Annotated[
        dict[str, Quantity], Meta(max_length=32, description="what it needs, such as cpu, memory, nvidia.com/gpu")
    ] = msgspec.field(default_factory=dict)
    limits: Annotated[dict[str, Quantity], Meta(max_length=32, description="what it may take")] = msgspec.field(
        default_factory=dict
    )


class TemplateMetadata(Part, frozen=True, kw_only=True):
    """Labels and annotations of pods, beside those of the operator."""

    RULES = (
        Rule(
            "!has(self.labels) || self.labels.all(key, !key.startsWith('penstock.dev/'))",
            "labels that begin with penstock.dev/ are the operator's: use a prefix of your own",
        ),
        Rule(
            "!has(self.annotations) || self.annotations.all(key, !key.startsWith('penstock.dev/'))",
            "annotations that begin with penstock.dev/ are the operator's: use a prefix of your own",
        ),
    )

    labels: Labels = msgspec.field(default_factory=dict)
    annotations: Annotations = msgspec.field(default_factory=dict)


class PodTemplate(Part, frozen=True, kw_only=True):
    """What pods have beyond what the operator gives them: node selectors, tolerations, affinity, volumes, sidecars."""

    metadata: TemplateMetadata | None = None
    spec: Annotated[
        Embedded | None, Meta(description="part of a PodSpec, merged into ours; lists of named things merge by name")
    ] = None


class Role(Part, frozen=True, kw_only=True):
    """The pods of one kind."""

    replicas: Annotated[
        Replicas | None, Meta(description="a fixed number of pods; leave it out where something scales them")
    ] = None
    resources: Resources | None = None
    template: PodTemplate | None = None


class Connector(Part, frozen=True, kw_only=True):
    """How prefill and decode pods share KV cache."""

    type: Annotated[
        Literal["nixl"],
        Meta(description="NIXL, over RDMA, NVLink or TCP", extra_json_schema={IF_MISSING: "write type: nixl"}),
    ]
    rdma: Annotated[
        Word | None, Meta(description="resource of an RDMA device, such as rdma/hca; the pods lock memory then")
    ] = None


class RouterService(Part, frozen=True, kw_only=True):
    """The Service that clients use."""

    type: Annotated[Literal["ClusterIP", "NodePort", "LoadBalancer"] | None, Meta(description="default: ClusterIP")] = (
        None
    )
    port: Annotated[Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="default: 80, or 443 with TLS")] = (
        None
    )
    annotations: Annotations = msgspec.field(default_factory=dict)


class ParentReference(Part, frozen=True, kw_only=True):
    """A Gateway."""

    name: Annotated[
        Name, Meta(description="of the Gateway", extra_json_schema={IF_MISSING: "write the name of a Gateway"})
    ]
    namespace: Annotated[Name | None, Meta(description="of the Gateway; default: the service's own")] = None
    section_name: Annotated[Name | None, Meta(description="one of its listeners")] = None


class Gateway(Part, frozen=True, kw_only=True):
    """How a Gateway reaches the service."""

    parents: Annotated[
        tuple[ParentReference, ...],
        Meta(
            min_length=1,
            max_length=8,
            description="Gateways that lead here",
            extra_json_schema={IF_MISSING: "write parents: [{name: NAME}], with the name of a Gateway"},
        ),
    ]
    hostnames: Annotated[
        tuple[Hostname, ...], Meta(max_length=16, description="that lead here; default: all of the Gateway's")
    ] = ()
    inference_pool: Annotated[
        bool | None,
        Meta(description="an InferencePool in front of the pods, whose endpoint picker chooses instead of us"),
    ] = None


class Router(Part, frozen=True, kw_only=True):
    """What clients talk to."""

    RULES = (
        Rule(
            "!has(self.gateway) || !has(self.enabled) || self.enabled"
            " || has(self.gateway.inferencePool) && self.gateway.inferencePool",
            "gateway needs the router, or inferencePool: true, where the gateway itself chooses the pod",
        ),
    )

    enabled: Annotated[bool | None, Meta(description="default: true")] = None
    replicas: Annotated[Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="default: 1")] = None
    args: Annotated[tuple[Words, ...], Meta(max_length=64, description="further flags of `penstock route`")] = ()
    resources: Resources | None = None
    template: PodTemplate | None = None
    service: RouterService | None = None
    gateway: Gateway | None = None


class Rollout(Part, frozen=True, kw_only=True):
    """How a change reaches the pods."""

    RULES = (
        Rule(
            "!has(self.maxSurge) || !has(self.maxUnavailable)"
            " || !(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
            "maxSurge and maxUnavailable cannot both be 0, no pod could ever be replaced: write 1 for one of them",
        ),
        Rule(
            "has(self.maxUnavailable) || !has(self.maxSurge) || !(string(self.maxSurge) in ['0', '0%'])",
            "maxSurge: 0 needs a maxUnavailable above 0, which is 0 by default: write maxUnavailable: 1",
        ),
    )

    max_surge: Annotated[Share | None, Meta(description="pods beyond the wanted number; default: 1")] = None
    max_unavailable: Annotated[Share | None, Meta(description="pods below it; default: 0")] = None
    paused: Annotated[bool | None, Meta(description="stop where it is")] = None
    restarted_at: Annotated[Words | None, Meta(description="any new value makes new pods")] = None


class Tls(Part, frozen=True, kw_only=True):
    """HTTPS at the router."""

    secret_name: Annotated[
        Name,
        Meta(
            description="Secret of type kubernetes.io/tls; read anew when it changes",
            extra_json_schema={
                IF_MISSING: "write secretName: NAME, with the name of a Secret of type kubernetes.io/tls"
            },
        ),
    ]


class NetworkRules(Part, frozen=True, kw_only=True):
    """Who may connect."""

    enabled: Annotated[bool | None, Meta(description="default: true")] = None
    clients: Annotated[
        tuple[Embedded, ...],
        Meta(max_length=32, description="NetworkPolicyPeers that reach the router; default: everybody"),
    ] = ()


class Security(Part, frozen=True, kw_only=True):
    """Who may ask, and how."""

    api_keys_secret: Annotated[
        Name | None, Meta(description="Secret whose key `api-keys` has a line name:key for each API key")
    ] = None
    tls: Tls | None = None
    network_policy: NetworkRules | None = None


class Runtime(Part, frozen=True, kw_only=True):
    """The image that every pod runs."""

    image: Annotated[Word | None, Meta(description="default: the operator's")] = None
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, Meta(description="when nodes fetch the image")
    ] = None
    image_pull_secrets: Annotated[
        tuple[Name, ...], Meta(max_length=16, description="Secrets that may read the image's registry")
    ] = ()
    service_account_name: Annotated[Name | None, Meta(description="default: one without any rights")] = None
    env: Annotated[
        tuple[Named, ...],
        Meta(
            max_length=128,
            description="EnvVars of the containers that serve or fetch the model",
            extra_json_schema=by_key("name"),
        ),
    ] = ()


class InferenceServiceSpec(Part, frozen=True, kw_only=True):
    """A model, served."""

    RULES = (
        Rule(
            "!has(self.prefill) || has(self.connector)", "prefill pods need a connector: write connector: {type: nixl}"
        ),
        Rule(
            f"!({IS_SCALED}) || !has(self.autoscaling.decode) || !has(self.decode) || !has(self.decode.replicas)",
            "decode.replicas and autoscaling.decode exclude each other: leave one out, or use mode: Advisory",
        ),
        Rule(
            f"!({IS_SCALED}) || !has(self.autoscaling.prefill) || !has(self.prefill) || !has(self.prefill.replicas)",
            "prefill.replicas and autoscaling.prefill exclude each other: leave one out, or use mode: Advisory",
        ),
        Rule(
            f"!({IS_SCALED}) || !has(self.decode) || !has(self.decode.replicas)"
            " || has(self.prefill) && !has(self.prefill.replicas)",
            "every role has fixed replicas, so nothing can be scaled: leave decode.replicas out, or use mode: Advisory",
        ),
        Rule(
            "!has(self.autoscaling) || !has(self.autoscaling.prefill) || has(self.prefill)",
            "autoscaling.prefill needs prefill pods: write prefill: {}, or leave it out",
        ),
        Rule(
            f"!has(self.autoscaling) || !has(self.autoscaling.scaleToZeroAfter) || {HAS_ROUTER}",
            "scaleToZeroAfter needs the router, which holds requests while nothing runs: leave router.enabled out",
        ),
        Rule(
            "!has(self.autoscaling) || !has(self.autoscaling.scaleToZeroAfter)"
            " || !(has(self.decode) && has(self.decode.replicas))"
            " && !(has(self.prefill) && has(self.prefill.replicas))",
            "scaleToZeroAfter cannot take pods away that are fixed: leave replicas of prefill and decode out",
        ),
        Rule(
            f"!has(self.security) || !has(self.security.tls) || {HAS_ROUTER}",
            "security.tls is at the router: leave router.enabled out",
        ),
        Rule(
            f"!has(self.security) || !has(self.security.apiKeysSecret) || {HAS_ROUTER}",
            "the router checks security.apiKeysSecret: leave router.enabled out",
        ),
        Rule(
            "!has(self.security) || !has(self.security.apiKeysSecret) || !has(self.router)"
            " || !has(self.router.gateway) || !has(self.router.gateway.inferencePool)"
            " || !self.router.gateway.inferencePool",
            "an InferencePool leads past the router, which checks security.apiKeysSecret: leave one of both out",
        ),
    )

    model: Annotated[
        Model,
        Meta(
            description="what is served",
            extra_json_schema={IF_MISSING: "write model: {source: hf://org/name}"},
        ),
    ]
    engine: Engine | None = None
    prefill: Annotated[
        Role | None, Meta(description="pods that compute long prompts; without it one role does all")
    ] = None
    decode: Annotated[
        Role, Meta(description="pods that own requests; without prefill they do everything; default: {}")
    ] = msgspec.field(default_factory=Role)
    connector: Connector | None = None
    router: Router | None = None
    autoscaling: Autoscaling | None = None
    slo: Slo | None = None
    rollout: Rollout | None = None
    security: Security | None = None
    runtime: Runtime | None = None
    suspend: Annotated[bool | None, Meta(description="run nothing, and keep everything else")] = None
