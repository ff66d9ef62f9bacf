"""`penstock.dev/v1alpha1`: what people write, and what the operator answers.

Parsing, the CustomResourceDefinitions (`crds/`) and the reference (`docs/api-reference.md`) all come from these types.
A field without a value means "not set": the operator decides then, and may decide better in its next version.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from penstock_operator.api.rules import OPEN, Rule

GROUP, VERSION = "penstock.dev", "v1alpha1"
LONGEST_NAME = 40  # of an InferenceService: children's names are longer, and labels take 63

Quantity = int | Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")]
Duration = Annotated[str, Meta(pattern=r"^([0-9]+(ms|s|m|h))+$", max_length=32)]
Share = Annotated[int, Meta(ge=0, le=10_000)] | Annotated[str, Meta(pattern=r"^(100|[1-9]?[0-9])%$")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Replicas = Annotated[int, Meta(ge=0, le=10_000)]
Words = Annotated[str, Meta(min_length=1, max_length=1024)]
Embedded = Annotated[dict[str, Any], Meta(extra={OPEN: True})]  # a part of Kubernetes' own API, which checks it


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A part of an object."""

    RULES: ClassVar[tuple[Rule, ...]] = ()


class ModelCache(Part, frozen=True, kw_only=True):
    """Where the weights are kept."""

    RULES = (
        Rule("self.type == 'Shared' || !has(self.claimName)", "claimName needs type: Shared"),
        Rule(
            "self.type != 'Shared' || has(self.claimName) || has(self.size)",
            "a shared cache needs a size, such as 50Gi, or the claimName of a volume that is there",
        ),
    )

    type: Annotated[
        Literal["Pod", "Shared"],
        Meta(
            description="Pod: every pod fetches its own copy; Shared: one volume that many nodes can mount, filled once"
        ),
    ]
    size: Annotated[Quantity | None, Meta(description="of the volume, such as 50Gi")] = None
    storage_class_name: Annotated[Name | None, Meta(description="of the volume; default: the cluster's own")] = None
    access_mode: Annotated[
        Literal["ReadWriteMany", "ReadOnlyMany"] | None,
        Meta(description="of the shared volume; default: ReadWriteMany"),
    ] = None
    claim_name: Annotated[
        Name | None, Meta(description="a PersistentVolumeClaim that exists, instead of a new one")
    ] = None


class Model(Part, frozen=True, kw_only=True):
    """What is served."""

    source: Annotated[Words, Meta(description="hf://org/name, a path in the image or on a volume, or pvc://claim/path")]
    revision: Annotated[Words | None, Meta(description="branch, tag or commit of a hub model")] = None
    served_name: Annotated[Words | None, Meta(description="name that clients use; default: the model's own")] = None
    credentials_secret: Annotated[
        Name | None, Meta(description="Secret whose key HF_TOKEN may read a gated or private model")
    ] = None
    cache: Annotated[ModelCache | None, Meta(description="default: every pod fetches its own copy")] = None


class Engine(Part, frozen=True, kw_only=True):
    """How it is computed."""

    dtype: Annotated[Literal["auto", "bfloat16", "float32"] | None, Meta(description="of activations")] = None
    quantization: Annotated[Literal["int8", "int4"] | None, Meta(description="of the weights, while loading")] = None
    kv_cache_dtype: Annotated[Literal["auto", "bfloat16", "float32"] | None, Meta(description="of keys and values")] = (
        None
    )
    kv_cache_memory: Annotated[Quantity | None, Meta(description="for keys and values; default: what is free")] = None
    max_model_len: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 24)] | None, Meta(description="longest prompt plus output, in tokens")
    ] = None
    args: Annotated[
        tuple[Words, ...],
        Meta(max_length=64, description="further flags of `penstock serve`, such as --max-num-seqs=64"),
    ] = ()


class Resources(Part, frozen=True, kw_only=True):
    """Of one pod's container."""

    requests: Annotated[
        dict[str, Quantity], Meta(description="what it needs, such as cpu, memory, nvidia.com/gpu")
    ] = {}
    limits: Annotated[dict[str, Quantity], Meta(description="what it may take")] = {}


class TemplateMetadata(Part, frozen=True, kw_only=True):
    """Labels and annotations of pods, beside those of the operator."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


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

    type: Annotated[Literal["nixl"], Meta(description="NIXL, over RDMA, NVLink or TCP")]
    rdma: Annotated[
        Words | None, Meta(description="resource of an RDMA device, such as rdma/hca; the pods lock memory then")
    ] = None


class RouterService(Part, frozen=True, kw_only=True):
    """The Service that clients use."""

    type: Annotated[Literal["ClusterIP", "NodePort", "LoadBalancer"] | None, Meta(description="default: ClusterIP")] = (
        None
    )
    port: Annotated[Annotated[int, Meta(ge=1, le=65535)] | None, Meta(description="default: 80, or 443 with TLS")] = (
        None
    )
    annotations: dict[str, str] = {}


class ParentReference(Part, frozen=True, kw_only=True):
    """A Gateway."""

    name: Name
    namespace: Name | None = None
    section_name: Annotated[Name | None, Meta(description="one of its listeners")] = None


class Gateway(Part, frozen=True, kw_only=True):
    """How a Gateway reaches the service."""

    parents: Annotated[tuple[ParentReference, ...], Meta(min_length=1, max_length=8)]
    hostnames: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    inference_pool: Annotated[
        bool | None,
        Meta(description="an InferencePool in front of the pods, whose endpoint picker chooses instead of us"),
    ] = None


class Router(Part, frozen=True, kw_only=True):
    """What clients talk to."""

    enabled: Annotated[bool | None, Meta(description="default: true")] = None
    replicas: Annotated[Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="default: 1")] = None
    args: Annotated[tuple[Words, ...], Meta(max_length=64, description="further flags of `penstock route`")] = ()
    resources: Resources | None = None
    template: PodTemplate | None = None
    service: RouterService | None = None
    gateway: Gateway | None = None


class Range(Part, frozen=True, kw_only=True):
    """How many pods there may be."""

    RULES = (Rule("!has(self.min) || !has(self.max) || self.min <= self.max", "min is above max"),)

    min: Annotated[Replicas | None, Meta(description="default: 1")] = None
    max: Annotated[Annotated[int, Meta(ge=1, le=10_000)] | None, Meta(description="default: min, or 1")] = None


class PrefillScaling(Range, frozen=True, kw_only=True):
    """When there are more prefill pods."""

    target_queue_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=3600)] | None, Meta(description="of work that waits, per pod; default: 1")
    ] = None


class DecodeScaling(Range, frozen=True, kw_only=True):
    """When there are more decode pods (or pods of the one role, without prefill)."""

    target_kv_utilization: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="of the KV cache, in percent; default: 80")
    ] = msgspec.field(default=None, name="targetKVUtilization")


class Schedule(Part, frozen=True, kw_only=True):
    """Other limits at certain times."""

    name: Name
    start: Annotated[str, Meta(description="cron expression of five fields", max_length=100)]
    duration: Duration
    time_zone: Annotated[Words | None, Meta(description="IANA name; default: UTC")] = None
    prefill: Range | None = None
    decode: Range | None = None


class Windows(Part, frozen=True, kw_only=True):
    """For how long a signal must stand before it is followed."""

    up: Annotated[Duration | None, Meta(description="default: 0s")] = None
    down: Annotated[Duration | None, Meta(description="default: 5m")] = None


class Autoscaling(Part, frozen=True, kw_only=True):
    """Who sets the number of pods, and by what."""

    mode: Annotated[
        Literal["Builtin", "HPA", "KEDA", "Advisory"],
        Meta(
            description="Builtin: this operator; HPA, KEDA: those, by our metrics; Advisory: nobody, only a report"
        ),
    ]
    prefill: PrefillScaling | None = None
    decode: DecodeScaling | None = None
    gpu_budget: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None, Meta(description="GPUs that both roles together may request")
    ] = None
    scale_to_zero_after: Annotated[Duration | None, Meta(description="without a request; default: never")] = None
    windows: Windows | None = None
    schedules: Annotated[tuple[Schedule, ...], Meta(max_length=16)] = ()


class Slo(Part, frozen=True, kw_only=True):
    """What clients are promised; autoscaling keeps to it."""

    ttft: Annotated[Duration | None, Meta(description="time to first token")] = None
    itl: Annotated[Duration | None, Meta(description="between tokens")] = None


class Rollout(Part, frozen=True, kw_only=True):
    """How a change reaches the pods."""

    max_surge: Annotated[Share | None, Meta(description="pods beyond the wanted number; default: 1")] = None
    max_unavailable: Annotated[Share | None, Meta(description="pods below it; default: 0")] = None
    paused: Annotated[bool | None, Meta(description="stop where it is")] = None
    restarted_at: Annotated[Words | None, Meta(description="any new value makes new pods")] = None


class Tls(Part, frozen=True, kw_only=True):
    """HTTPS at the router."""

    secret_name: Annotated[Name, Meta(description="Secret of type kubernetes.io/tls; read anew when it changes")]


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

    image: Annotated[Words | None, Meta(description="default: the operator's")] = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    service_account_name: Annotated[Name | None, Meta(description="default: one without any rights")] = None
    env: Annotated[tuple[Embedded, ...], Meta(max_length=128, description="EnvVars of the engine's container")] = ()


class InferenceServiceSpec(Part, frozen=True, kw_only=True):
    """A model, served."""

    RULES = (
        Rule(
            "!has(self.prefill) || has(self.connector)", "prefill pods need a connector: write connector: {type: nixl}"
        ),
        Rule(
            "!has(self.autoscaling) || self.autoscaling.mode == 'Advisory' || !has(self.decode.replicas)",
            "decode.replicas and autoscaling exclude each other: leave replicas out, or use mode: Advisory",
        ),
        Rule(
            "!has(self.autoscaling) || self.autoscaling.mode == 'Advisory' || !has(self.prefill)"
            " || !has(self.prefill.replicas)",
            "prefill.replicas and autoscaling exclude each other: leave replicas out, or use mode: Advisory",
        ),
        Rule(
            "!has(self.autoscaling) || !has(self.autoscaling.scaleToZeroAfter) || !has(self.router)"
            " || !has(self.router.enabled) || self.router.enabled",
            "scaleToZeroAfter needs the router, which holds requests while nothing runs",
        ),
        Rule(
            "!has(self.rollout) || !has(self.rollout.maxSurge) || !has(self.rollout.maxUnavailable)"
            " || !(string(self.rollout.maxSurge) in ['0', '0%'] && string(self.rollout.maxUnavailable) in ['0', '0%'])",
            "maxSurge and maxUnavailable cannot both be 0: no pod could ever be replaced",
        ),
    )

    model: Model
    engine: Engine | None = None
    prefill: Annotated[
        Role | None, Meta(description="pods that compute long prompts; without it one role does all")
    ] = None
    decode: Annotated[Role, Meta(description="pods that own requests; without prefill they do everything")]
    connector: Connector | None = None
    router: Router | None = None
    autoscaling: Autoscaling | None = None
    slo: Slo | None = None
    rollout: Rollout | None = None
    security: Security | None = None
    runtime: Runtime | None = None
    suspend: Annotated[bool | None, Meta(description="run nothing, and keep everything else")] = None
