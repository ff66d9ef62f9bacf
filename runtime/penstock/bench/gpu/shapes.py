"""The models and batches that kernels are measured with, and what each costs at least."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Numbers of a model, without any weights."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    has_head_norms: bool

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads


LLAMA_8B = ModelShape(
    name="Llama-3.1-8B",
    hidden=4096,
    intermediate=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    has_head_norms=False,
)
QWEN_06B = ModelShape(
    name="Qwen3-0.6B",
    hidden=1024,
    intermediate=3072,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    vocab=151936,
    has_head_norms=True,
)
TINY = ModelShape(
    name="tiny",
    hidden=64,
    intermediate=96,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    vocab=96,
    has_head_norms=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The requests of one step."""

    name: str
    lengths: tuple[tuple[int, int], ...]  # of each request: new tokens, and keys with them
    is_fp8: bool = False  # keys and values

    @property
    def num_tokens(self) -> int:
        """New tokens of the step."""
        return sum(queries for queries, _ in self.lengths)

    @property
    def num_keys(self) -> int:
        """Tokens in the cache."""
        return sum(keys for _, keys in self.lengths)

    @property
    def is_decode(self) -> bool:
        """Every request has one new token."""
        return all(queries == 1 for queries, _ in self.lengths)

    @property
    def is_uniform(self) -> bool:
        """All requests are alike."""
        return len(set(self.lengths)) == 1

    def attention_bytes(self, model: ModelShape, item: int) -> int:
        """Bytes of one layer's attention: queries in, outputs out, each key and value once. `item`: bytes of a query's
        element, and of a cached one unless that is float8."""
        rows = 2 * self.num_tokens * model.heads * model.head_dim * item
        return rows + self.num_keys * 2 * model.kv_heads * model.head_dim * (1 if self.is_fp8 else item)

    def attention_operations(self, model: ModelShape) -> int:
        """Operations of one layer's causal attention: two matmuls over the pairs of query and key that are seen."""
        pairs = sum(q * (keys - q) + q * (q + 1) // 2 for q, keys in self.lengths)
        return 4 * pairs * model.heads * model.head_dim


def decode(batch: int, keys: int, *, is_fp8: bool = False) -> Workload:
    """Requests that each add one token."""
    name = f"decode {batch} x {size(keys)}{' fp8' * is_fp8}"
    return Workload(name=name, lengths=((1, keys),) * batch, is_fp8=is_fp8)


def prefill(length: int, *, batch: int = 1, is_fp8: bool = False) -> Workload:
    """Whole prompts."""
    name = f"prefill {batch} x {size(length)}{' fp8' * is_fp8}"
    return Workload(name=name, lengths=((length, length),) * batch, is_fp8=is_fp8)


def size(tokens: int) -> str:
    """4096 as 4K."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


LONG, SHORT, NUM_SHORT = 128 * 1024, 4096, 31
SKEWED = Workload(name="decode 1 x 128K + 31 x 4K", lengths=((1, LONG), *(((1, SHORT),) * NUM_SHORT)))
BALANCED = Workload(
    name="decode, the same keys in equal parts",
    lengths=((1, (LONG + NUM_SHORT * SHORT) // (NUM_SHORT + 1)),) * (NUM_SHORT + 1),
)
CHUNK = Workload(name="chunk of 2K on 14K", lengths=((2048, 16384),))
MIXED = Workload(name="chunk of 1K + decode 63 x 4K", lengths=((1024, 4096), *(((1, 4096),) * 63)))

ATTENTION: tuple[Workload, ...] = (
    decode(64, 4096),
    SKEWED,
    BALANCED,
    prefill(8192),
    prefill(4096),
    prefill(16384),
    decode(16, 16384),
    decode(64, 4096, is_fp8=True),
    decode(1, 4096),
    decode(256, 1024),
    decode(512, 128),
    prefill(128, batch=16),
    prefill(2048),
    CHUNK,
    MIXED,
    decode(1, 16384),
    decode(16, 4096),
    decode(512, 1024),
    prefill(8192, is_fp8=True),
)
"""Most telling first: time may end before the list does."""

TINY_ATTENTION: tuple[Workload, ...] = (
    decode(3, 40),
    prefill(24, is_fp8=True),
    Workload(name="mixed", lengths=((5, 20), (1, 33))),
)
