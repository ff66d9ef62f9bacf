"""Each op of the registry but attention at the shapes of a model's steps: inputs, bytes that must move, plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from penstock.bench.gpu.shapes import BLOCK_SIZE, ModelShape
from penstock_kernels.gpu import gated_activation, gather_logprobs, matvec, prepare_inputs, rms_norm, rope_kv_write
from penstock_kernels.gpu.matvec import Norm
from penstock_kernels.gpu.prepare_inputs import TableColumns
from penstock_kernels.gpu.registry import Inputs, Op
from penstock_kernels.gpu.rope_kv_write import HeadNorms
from penstock_kernels.gpu.sample_tokens import Sampling
from penstock_kernels.kv_scales import UNSCALED

ROPE_LAYERS = 4  # of its cache: as many as keep neighbours of a layer apart


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCase:
    """One op at one shape, in the form that its `Op` of the registry takes."""

    op: str
    shape: str
    inputs: Inputs
    num_bytes: int
    operations: int = 0  # of the matrix units
    plain: Callable[[], object] | None = None  # the same in plain torch, as a peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """Makes tensors of one device and type."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        """Random numbers in the type of activations."""
        return torch.randn(shape, generator=self.generator, device=self.device).to(self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Random int32 below `high`."""
        return torch.randint(0, high, shape, generator=self.generator, device=self.device).to(torch.int32)

    def filled(self, value: float, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """One value, `count` times."""
        return torch.full((count,), value, dtype=dtype, device=self.device)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """What an op fills."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)


def rms_norm_case(model: ModelShape, tokens: int, make: Maker) -> OpCase:
    """The residual connection and the norm after it."""
    x, residual, weight = (
        make.normal(tokens, model.hidden),
        make.normal(tokens, model.hidden),
        make.normal(model.hidden),
    )
    inputs = {"x": x, "residual": residual, "weight": weight, "out": torch.empty_like(x)}
    return OpCase(
        op=rms_norm.OP.name,
        shape=f"{tokens} tokens, with residual",
        inputs=inputs,
        num_bytes=(4 * tokens + 1) * model.hidden * x.itemsize,
        plain=lambda: torch.nn.functional.rms_norm(x + residual, (model.hidden,), weight, 1e-6),
    )


def gated_activation_case(model: ModelShape, tokens: int, make: Maker) -> OpCase:
    """The middle of the MLP."""
    gate_up = make.normal(tokens, 2 * model.intermediate)
    inputs = {"gate_up": gate_up, "activation": "silu", "out": make.empty(tokens, model.intermediate)}
    return OpCase(
        op=gated_activation.OP.name,
        shape=f"{tokens} tokens",
        inputs=inputs,
        num_bytes=3 * tokens * model.intermediate * gate_up.itemsize,
        plain=lambda: gated_activation.reference(gate_up, "silu"),
    )


def rope_kv_write_case(model: ModelShape, tokens: int, make: Maker) -> OpCase:
    """Rotation, head norms and the write into the cache."""
    head_dim, kv_heads = model.head_dim, model.kv_heads
    blocks = -(-tokens // BLOCK_SIZE) + 1
    angles = torch.rand(4096, head_dim // 2, generator=make.generator, device=make.device)
    norms = HeadNorms(query=make.normal(head_dim), key=make.normal(head_dim), eps=1e-6)
    slots = torch.randperm(blocks * BLOCK_SIZE, generator=make.generator, device=make.device)[:tokens]
    inputs = {
        "qkv": make.normal(tokens, (model.heads + 2 * kv_heads) * head_dim),
        "positions": make.integers(4096, tokens),
        "slots": slots,
        "cos_sin": torch.cat((angles.cos(), angles.sin()), dim=1),
        "norms": norms if model.has_head_norms else None,
        "scales": UNSCALED,
        "query": make.empty(tokens, model.heads, head_dim),
        "kv_cache": make.empty(blocks, kv_heads, ROPE_LAYERS, 2, BLOCK_SIZE, head_dim),
    }
    elements = 2 * tokens * (model.heads + 2 * kv_heads) * head_dim  # read, and written as queries, keys and values
    return OpCase(
        op=rope_kv_write.OP.name,
        shape=f"{tokens} tokens",
        inputs=inputs,
        num_bytes=elements * make.dtype.itemsize + tokens * (4 * head_dim + 4 + 8),  # angles, position, slot
    )


def gather_logprobs_case(model: ModelShape, rows: int, make: Maker) -> OpCase:
    """Log-probabilities of the sampled tokens."""
    logits, token_ids = make.normal(rows, model.vocab), make.integers(model.vocab, rows)
    inputs = {
        "logits": logits,
        "token_ids": token_ids,
        "logprobs": make.empty(rows, dtype=torch.float32),
        "ranks": make.empty(rows, dtype=torch.int32),
        "log_totals": make.empty(rows, dtype=torch.float32),
    }
    return OpCase(
        op=gather_logprobs.OP.name,
        shape=f"{rows} rows",
        inputs=inputs,
        num_bytes=logits.nbytes + 16 * rows,
        plain=lambda: gather_logprobs.reference(logits, token_ids),
    )


def sample_tokens_case(model: ModelShape, rows: int, make: Maker, limits: Mapping[str, float]) -> OpCase:
    """One token of each row; `limits` are parameters of `Sampling` that all rows share."""
    logits = 4 * make.normal(rows, model.vocab)
    given = {"temperature": 0.0, "top_p": 1.0, "min_p": 0.0, **limits}
    sampling = Sampling(
        temperature=make.filled(given["temperature"], rows),
        top_k=make.filled(given.get("top_k", 0), rows, torch.int32),
        top_p=make.filled(given["top_p"], rows),
        min_p=make.filled(given["min_p"], rows),
        seed=torch.arange(rows, device=make.device),
        index=make.integers(100, rows),
    )
    name = ", ".join(f"{key} {value:g}" for key, value in limits.items()) or "greedy"
    return OpCase(
        op="sample_tokens",
        shape=f"{rows} rows, {name}",
        inputs={"logits": logits, "sampling": sampling, "token_ids": make.empty(rows, dtype=torch.int32)},
        num_bytes=logits.nbytes + 36 * rows,
        plain=lambda: plain_sample(logits, given),
    )


def plain_sample(logits: Tensor, limits: Mapping[str, float]) -> Tensor:
    """What torch offers: sort, cut, draw."""
    if not limits["temperature"]:
        return logits.argmax(-1)
    ordered, ids = (logits.float() / limits["temperature"]).sort(dim=-1, descending=True)
    if top_k := int(limits.get("top_k", 0)):
        ordered[:, top_k:] = float("-inf")
    weights = ordered.softmax(-1)
    weights = weights.masked_fill(weights.cumsum(-1) - weights > limits["top_p"], 0.0)
    drawn = (weights / torch.empty_like(weights).exponential_()).argmax(-1, keepdim=True)
    return ids.gather(1, drawn)[:, 0]


def fixed_matmul_case(model: ModelShape, tokens: int, make: Maker) -> OpCase:
    """The widest matmul of a layer, in the form whose bits depend on no other row."""
    width, depth = 2 * model.intermediate, model.hidden
    x, weight = make.normal(tokens, depth), make.normal(width, depth) * depth**-0.5
    out = make.empty(tokens, width)
    return OpCase(
        op="fixed_matmul",
        shape=f"{tokens} x {width} x {depth}",
        inputs={"x": x, "weight": weight, "bias": None, "out": out},
        num_bytes=x.nbytes + weight.nbytes + out.nbytes,
        operations=2 * tokens * width * depth,
        plain=lambda: torch.nn.functional.linear(x, weight),
    )


def gate_up_case(model: ModelShape, make: Maker) -> OpCase:
    """The first half of an MLP with one row: norm, product, activation."""
    x, norm = make.normal(1, model.hidden), make.normal(model.hidden)
    weight = make.normal(2 * model.intermediate, model.hidden) * model.hidden**-0.5

    def plain() -> Tensor:
        normed = torch.nn.functional.rms_norm(x, (model.hidden,), norm, 1e-6)
        return gated_activation.reference(torch.nn.functional.linear(normed, weight), "silu")

    around: Inputs = {"norm": Norm(weight=norm, eps=1e-6), "is_gated": True, "residual": None}
    return OpCase(
        op=matvec.OP.name,
        shape=f"{len(weight)} x {model.hidden}, norm and gate",
        inputs={"x": x, "weight": weight, "bias": None, **around, "out": make.empty(1, model.intermediate)},
        num_bytes=weight.nbytes,
        plain=plain,
    )


def down_case(model: ModelShape, make: Maker) -> OpCase:
    """Its second half: product and residual connection."""
    x, residual = make.normal(1, model.intermediate), make.normal(1, model.hidden)
    weight = make.normal(model.hidden, model.intermediate) * model.intermediate**-0.5
    around: Inputs = {"norm": None, "is_gated": False, "residual": residual}
    return OpCase(
        op=matvec.OP.name,
        shape=f"{model.hidden} x {model.intermediate}, residual",
        inputs={"x": x, "weight": weight, "bias": None, **around, "out": make.empty(1, model.hidden)},
        num_bytes=weight.nbytes,
        plain=lambda: torch.nn.functional.linear(x, weight) + residual,
    )


def copy_blocks_case(model: ModelShape, blocks: int, make: Maker) -> OpCase:
    """Whole blocks, all layers."""
    cache = make.normal(2 * blocks, model.kv_heads, model.layers, 2, BLOCK_SIZE, model.head_dim)
    order = torch.randperm(2 * blocks, generator=make.generator, device=make.device)
    sources, targets = order[:blocks], order[blocks:]
    inputs = {"kv_cache": cache, "sources": sources.to(torch.int32), "targets": targets.to(torch.int32)}
    return OpCase(
        op="copy_blocks",
        shape=f"{blocks} blocks",
        inputs=inputs,
        num_bytes=cache.nbytes,
        plain=lambda: cache.index_copy_(0, targets, cache[sources]),
    )


def prepare_inputs_case(counts: tuple[int, ...], make: Maker, name: str) -> OpCase:
    """Ids, positions and slots of one step."""
    rows, length = len(counts), 8192
    table = TableColumns(
        token_ids=make.integers(50_000, rows, length),
        num_computed=make.integers(length - max(counts), rows),
        block_table=make.integers(1 << 20, rows, length // BLOCK_SIZE),
    )
    tokens = sum(counts)
    lengths = {"input_ids": tokens, "positions": tokens, "slots": tokens, "query_start_loc": rows + 1, "seq_lens": rows}
    columns = {
        name: make.empty(count, dtype=torch.int64 if name == "slots" else torch.int32)
        for name, count in lengths.items()
    }
    order = torch.randperm(rows, generator=make.generator, device=make.device).to(torch.int32)
    given = {"rows": order, "counts": torch.tensor(counts, dtype=torch.int32, device=make.device)}
    return OpCase(
        op=prepare_inputs.OP.name,
        shape=name,
        inputs={"table": table, **given, "block_size": BLOCK_SIZE, **columns},
        num_bytes=4 * tokens + 12 * rows + sum(column.nbytes for column in columns.values()),
    )


Build = Callable[[], OpCase]


def op_cases(model: ModelShape, make: Maker, *, scale: int = 1) -> list[tuple[str, Build]]:
    """Names of ops, and what builds one of their shapes; `scale` divides the sizes."""
    decode, prompt, blocks = (max(least, most // scale) for least, most in ((2, 256), (8, 8192), (2, 256)))
    usual = {"temperature": 0.8, "top_k": min(50, model.vocab), "top_p": 0.95}
    mixed = (1,) * (decode - 1) + (prompt // 4,)
    per_token = {
        "rms_norm": rms_norm_case,
        "gated_activation": gated_activation_case,
        "rope_kv_write": rope_kv_write_case,
        "fixed_matmul": fixed_matmul_case,
    }
    return [
        *(
            (name, partial(build, model, tokens, make))
            for name, build in per_token.items()
            for tokens in (decode, prompt)
        ),
        *(("matvec", partial(build, model, make)) for build in (gate_up_case, down_case)),
        ("gather_logprobs", partial(gather_logprobs_case, model, decode, make)),
        *(("sample_tokens", partial(sample_tokens_case, model, decode, make, limits)) for limits in ({}, usual)),
        ("copy_blocks", partial(copy_blocks_case, model, blocks, make)),
        ("prepare_inputs", partial(prepare_inputs_case, (1,) * decode, make, f"decode {decode}")),
        ("prepare_inputs", partial(prepare_inputs_case, mixed, make, f"decode {decode - 1} + {prompt // 4}")),
    ]


def registered_case(op: Op, make: Maker) -> OpCase:
    """An op that has no shape of a model here: its own last case, of which only the time means something."""
    case = op.cases[-1]
    dtype = make.dtype if make.dtype in op.dtypes else op.dtypes[-1]
    return OpCase(
        op=op.name, shape=f"case {case.name}", inputs=op.make_inputs(case, dtype, make.generator), num_bytes=0
    )
