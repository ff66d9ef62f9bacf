"""The most tokens per second that a machine can give with a model: measured bandwidth and matmul against its needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from penstock.loader.sources import weight_files
from penstock.models.spec import ModelSpec

KV_ITEM_BYTES = 2  # bf16
INT8_SIZE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """What one token needs of the machine."""

    weight_bytes: int  # read once per step
    layer_weights: int  # elements of all matrices but the head
    head_weights: int
    kv_bytes: int  # of one token of context
    attention_width: int  # query features over all layers

    @classmethod
    def of(cls, spec: ModelSpec, weight_bytes: int) -> ModelCost:
        """The cost of a model whose weights take `weight_bytes` in memory."""
        hidden, queries, keys = spec.hidden_size, spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        layer = hidden * (2 * queries + 2 * keys + 3 * spec.intermediate_size)
        return cls(
            weight_bytes=weight_bytes,
            layer_weights=layer * spec.num_layers,
            head_weights=hidden * spec.vocab_size,
            kv_bytes=2 * keys * spec.num_layers * KV_ITEM_BYTES,
            attention_width=queries * spec.num_layers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """What the machine was measured to do at best."""

    read_bandwidth: float  # bytes per second
    matmul: dict[str, float]  # "bf16", "int8" -> operations per second (a multiply-add is two)

    def decode(self, cost: ModelCost, streams: int, context: float, kind: str) -> float:
        """Tokens per second when weights and keys and values stream through once per step, or arithmetic at its best,
        whichever is slower; nothing overlaps worse than that."""
        memory = (cost.weight_bytes + streams * context * cost.kv_bytes) / self.read_bandwidth
        per_token = 2 * (cost.layer_weights + cost.head_weights) + 4 * context * cost.attention_width
        return streams / max(memory, streams * per_token / self.matmul[kind])

    def prefill(self, cost: ModelCost, length: int, kind: str) -> float:
        """Prompt tokens per second for prompts of `length` tokens; the head runs once per prompt."""
        per_prompt = 2 * (length * cost.layer_weights + cost.head_weights) + 2 * length**2 * cost.attention_width
        return length * self.matmul[kind] / per_prompt


def measure_ceiling(threads: int) -> Ceiling:
    """Measure this machine now, with `threads` threads."""
    import torch

    from penstock_kernels.cpu.limits import measure_matmul, measure_read_bandwidth

    torch.set_num_threads(threads)
    return Ceiling(
        read_bandwidth=measure_read_bandwidth(threads),
        matmul={"bf16": measure_matmul(torch.bfloat16), "int8": measure_int8()},
    )


def measure_int8() -> float:
    """Operations per second of torch's large int8 matmul, best of a few repeats."""
    import time

    import torch

    square = torch.ones(INT8_SIZE, INT8_SIZE, dtype=torch.int8)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        torch._int_mm(square, square)
        times.append(time.perf_counter() - began)
    return 2.0 * INT8_SIZE**3 / min(times)


def best_of(first: Ceiling, second: Ceiling) -> Ceiling:
    """The higher of two measurements, figure by figure: what disturbs a machine only makes it slower."""
    return Ceiling(
        read_bandwidth=max(first.read_bandwidth, second.read_bandwidth),
        matmul={kind: max(rate, second.matmul[kind]) for kind, rate in first.matmul.items()},
    )


def weight_bytes_of(folder: Path, quantization: str | None) -> int:
    """Bytes of a folder's weights once loaded: as they lie there, or bf16 ones quantised (one f16 scale and minimum per
    32 values, the vocabulary in 8 bits)."""
    stored = sum(file.stat().st_size for file in weight_files(folder))
    if quantization is None:
        return stored
    spec = ModelSpec.from_folder(folder)
    head = spec.hidden_size * spec.vocab_size * (1 if spec.tie_word_embeddings else 2)
    bits = {"int8": 8, "int4": 4}[quantization]
    return int((stored / 2 - head) * (bits / 8 + 0.125) + head * 1.125)
