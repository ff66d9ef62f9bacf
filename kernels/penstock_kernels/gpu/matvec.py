"""A weight times one or two rows, with what stands around it in a decoder layer: norm before, gate or residual after.

With so few rows a step is bound by reading weights, and by kernels that begin and end: a layer of a small model is read
in the time of a few launches. So a weight is read by plain loads of many small programs, each of which owns a few
columns of the result, and who reads a weight does what would be kernels of their own between two weights: each program
norms the rows again (they are in the L2 cache, and the norm's factor waits for the finished sums), and adds the
residual to its own columns in place. A layer is 7 launches then, and 10 without.

Sums are float32, and so are the normed rows, which are never rounded.

Expected on an H200, to be measured: 85 % of the memory's bandwidth for weights of 30 MB and more, where libraries reach
70; of those of 2 MB, which take half a microsecond to read, the launch is what counts. Compiled for sm_90 a program of
four warps takes 60 to 102 registers and spills none; with four rows it would spill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.gated_activation import reference as gated
from penstock_kernels.gpu.gated_activation import sigmoid
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import LaunchShape, launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op
from penstock_kernels.gpu.rms_norm import reference as normed

MOST_ROWS = 2  # of more a program's registers cannot hold the sums, and matrix units win


@triton.jit
def matvec_kernel(
    x_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    width,
    depth,
    x_stride,
    residual_stride,
    out_stride,
    eps,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_GATED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """One program: some columns of the result, for all rows. Dimensions of what it holds: row, column, depth."""
    row = tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, DEPTH)
    is_column = column < width
    x_rows = x_ptr + row.to(tl.int64)[:, None, None] * x_stride
    weight_rows = weight_ptr + column.to(tl.int64)[None, :, None] * depth
    gate_rows = weight_rows
    if IS_GATED:
        weight_rows += tl.cast(width, tl.int64) * depth
        gates = tl.zeros((ROWS, COLUMNS, DEPTH), tl.float32)
    totals = tl.zeros((ROWS, COLUMNS, DEPTH), tl.float32)
    squares = tl.zeros((ROWS, 1, DEPTH), tl.float32)
    for first in range(0, depth, DEPTH):
        place = (first + step)[None, None, :]
        inside = place < depth
        is_mine = is_column[None, :, None] & inside
        weight = tl.load(weight_rows + place, mask=is_mine, other=0.0, eviction_policy="evict_first")
        x = tl.load(x_rows + place, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares += x * x
            x *= tl.load(norm_ptr + place, mask=inside, other=0.0).to(tl.float32)
        totals += x * weight.to(tl.float32)
        if IS_GATED:
            gate = tl.load(gate_rows + place, mask=is_mine, other=0.0, eviction_policy="evict_first")
            gates += x * gate.to(tl.float32)
    values = tl.sum(totals, 2)
    if HAS_NORM:
        factor = tl.rsqrt(tl.sum(squares, 2) / depth + eps)
        values *= factor
    if HAS_BIAS:
        values += tl.load(bias_ptr + IS_GATED * width + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if IS_GATED:
        z = tl.sum(gates, 2)
        if HAS_NORM:
            z *= factor
        if HAS_BIAS:
            z += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
        values *= z * sigmoid(z)
    row_64 = row.to(tl.int64)[:, None]
    is_mine = is_column[None, :]
    if HAS_RESIDUAL:
        residual = residual_ptr + row_64 * residual_stride + column[None, :]
        values += tl.load(residual, mask=is_mine, other=0.0).to(tl.float32)
    place = out_ptr + row_64 * out_stride + column[None, :]
    tl.store(place, values.to(out_ptr.dtype.element_ty), mask=is_mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """An RMSNorm of the rows before they meet the weight."""

    weight: Tensor  # [K]
    eps: float


def matvec(
    x: Tensor,
    weight: Tensor,
    *,
    out: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    is_gated: bool = False,
    residual: Tensor | None = None,
    shape: LaunchShape | None = None,
) -> Launch:
    """Write `x` [M, K] times `weight` [N, K] transposed, plus `bias` [N], into `out` [M, N]; M is at most `MOST_ROWS`.

    `norm` of `x` goes before it. A gated weight is [gate; up], and `out` [M, N / 2] gets silu(gate) * up. `residual`
    [M, N] is added last; it may be `out` itself. All rows may be parts of wider ones. `shape` (what a program reads of
    a weight at once: rows of it, shared out among rows of `x` and gate, and depth) is for who measures.
    """
    (rows, depth), width = x.shape, len(weight) // 2 if is_gated else len(weight)
    assert rows <= MOST_ROWS, f"{rows} rows of {MOST_ROWS}"
    shape = shape or launch_shape("matvec", dtype=weight.dtype, size=width, device=weight.device)
    columns = max(1, shape.tile[0] // (max(1, rows) * (1 + is_gated)))
    return Launch(
        kernel=matvec_kernel,
        grid=(triton.cdiv(width, columns) if rows else 0,),
        args={
            "x_ptr": x,
            "norm_ptr": None if norm is None else norm.weight,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "residual_ptr": residual,
            "out_ptr": out,
            "width": width,
            "depth": depth,
            "x_stride": x.stride(0),
            "residual_stride": 0 if residual is None else residual.stride(0),
            "out_stride": out.stride(0),
            "eps": 0.0 if norm is None else norm.eps,
        },
        constants={
            "ROWS": rows,
            "COLUMNS": columns,
            "DEPTH": min(shape.tile[1], int(triton.next_power_of_2(depth))),
            "HAS_NORM": norm is not None,
            "HAS_BIAS": bias is not None,
            "IS_GATED": is_gated,
            "HAS_RESIDUAL": residual is not None,
        },
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


def reference(inputs: Inputs) -> dict[str, Tensor]:
    """See `matvec`."""
    x, norm = inputs["x"], inputs["norm"]
    if norm is not None:
        x, _ = normed(x, norm.weight, norm.eps, None)
    found = torch.nn.functional.linear(x, inputs["weight"], inputs["bias"])
    if inputs["is_gated"]:
        found = gated(found, "silu")
    return {"out": found if inputs["residual"] is None else found + inputs["residual"]}


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    given = case.parameters
    rows, width, depth, is_gated = (given[name] for name in ("rows", "width", "depth", "is_gated"))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device).to(dtype)

    return {
        "x": normal(rows, depth),
        "weight": normal(width, depth) * depth**-0.5,
        "bias": normal(width) if given["has_bias"] else None,
        "norm": Norm(weight=normal(depth), eps=1e-6) if given["has_norm"] else None,
        "is_gated": is_gated,
        "residual": normal(rows, width) if given["has_residual"] else None,
        "out": torch.empty(rows, width // 2 if is_gated else width, dtype=dtype, device=generator.device),
    }


CASES = (  # name, rows, width, depth, and what the case has
    ("one-row", 1, 96, 256, ()),
    ("query-key-value", 2, 50, 200, ("has_norm", "has_bias")),
    ("gate-and-up", 2, 44, 130, ("has_norm", "is_gated")),
    ("gate-with-bias", 1, 44, 64, ("has_bias", "is_gated")),
    ("deeper-than-a-tile", 1, 10, 4100, ("has_norm",)),
    ("residual", 2, 70, 96, ("has_residual", "has_bias")),
)

OP = Op(
    name="matvec",
    make_inputs=_make_inputs,
    launches=lambda inputs: (matvec(**inputs),),
    reference=reference,
    outputs=("out",),
    cases=tuple(
        Case(
            name=name,
            parameters={
                "rows": rows,
                "width": width,
                "depth": depth,
                **{each: each in has for each in ("has_norm", "has_bias", "has_residual", "is_gated")},
            },
        )
        for name, rows, width, depth, has in CASES
    ),
)
