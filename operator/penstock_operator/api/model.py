"""The parts of a spec about what is computed: model and engine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from penstock_operator.api.rules import IF_MISSING, IF_WRONG, Rule
from penstock_operator.api.scalars import Name, Part, Size, Word, Words

IS_OF_HUB = "(!has(self.source) || self.source.matches(r'^(hf://|[^/:]+/)'))"


class ModelCache(Part, frozen=True, kw_only=True):
    """Where the weights are kept."""

    RULES = (
        Rule(
            "self.type == 'Shared' || !has(self.claimName) && !has(self.storageClassName) && !has(self.accessMode)",
            "claimName, storageClassName and accessMode are for type: Shared",
        ),
        Rule(
            "self.type != 'Shared' || has(self.claimName) || has(self.size)",
            "a shared cache needs a size, such as 50Gi, or the claimName of a volume that is there",
        ),
        Rule(
            "!has(self.claimName) || !has(self.size) && !has(self.storageClassName)",
            "claimName is a volume that is there: leave size and storageClassName out",
        ),
        Rule(
            "!has(self.accessMode) || self.accessMode != 'ReadOnlyMany' || has(self.claimName)",
            "a volume that can only be read has to be filled already: give its claimName, or use ReadWriteMany",
        ),
    )

    type: Annotated[
        Literal["Pod", "Shared"],
        Meta(
            description="Pod: every pod fetches its own copy; Shared: one volume that many nodes mount, filled once",
            extra_json_schema={IF_MISSING: "write type: Pod, or type: Shared"},
        ),
    ]
    size: Annotated[Size | None, Meta(description="most that it may hold, such as 50Gi")] = None
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

    RULES = (
        Rule(
            f"!has(self.revision) || {IS_OF_HUB}",
            "revision is for a model of the hub: write source: hf://org/name, or leave revision out",
        ),
        Rule(
            f"!has(self.cache) || self.cache.type != 'Shared' || {IS_OF_HUB}",
            "a shared cache is for a model of the hub: write source: hf://org/name, or leave cache out",
        ),
        Rule("!has(self.source) || !self.source.contains('/..')", "source leaves its folder: write it without /.."),
    )

    source: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^(hf://[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*"
                r"|[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*"
                r"|pypi://[a-z0-9][a-z0-9_.-]*|pvc://[a-z0-9][-a-z0-9.]*/[^\s]+|/[^\s]+)$",
                max_length=1024,
                extra_json_schema={
                    IF_WRONG: "write hf://org/name, pypi://package, pvc://claim/folder or a path such as /models/mine"
                },
            ),
        ],
        Meta(
            description="hf://org/name, pypi://package, pvc://claim/folder, or a path in the image or a volume",
            extra_json_schema={IF_MISSING: "write source: hf://org/name"},
        ),
    ]
    revision: Annotated[Word | None, Meta(description="branch, tag or commit of a hub model")] = None
    served_name: Annotated[Word | None, Meta(description="name that clients use; default: the model's own")] = None
    credentials_secret: Annotated[
        Name | None, Meta(description="Secret whose key HF_TOKEN may read a gated or private model")
    ] = None
    cache: Annotated[ModelCache | None, Meta(description="default: every pod fetches its own copy")] = None


class Engine(Part, frozen=True, kw_only=True):
    """How it is computed."""

    dtype: Annotated[Literal["auto", "bfloat16", "float32"] | None, Meta(description="of activations")] = None
    quantization: Annotated[Literal["int8", "int4"] | None, Meta(description="of the weights, while loading")] = None
    kv_cache_dtype: Annotated[
        Literal["auto", "bfloat16", "float32", "fp8"] | None, Meta(description="of keys and values; fp8 needs a GPU")
    ] = None
    kv_cache_memory: Annotated[Size | None, Meta(description="for keys and values; default: what is free")] = None
    tensor_parallel: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(description="workers that share every layer; default: 1. Each takes an accelerator"),
    ] = None
    pipeline_parallel: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None,
        Meta(
            description="groups of layers, each with workers of its own; default: 1. A replica whose workers need more"
            " accelerators than one pod of the role asks for becomes a LeaderWorkerSet of several pods"
        ),
    ] = None
    max_model_len: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 24)] | None, Meta(description="longest prompt plus output, in tokens")
    ] = None
    args: Annotated[
        tuple[Words, ...],
        Meta(max_length=64, description="further flags of `penstock serve`, such as --max-num-seqs=64"),
    ] = ()
