"""A matmul whose rows do not know each other: the bits of a row are the same whatever rows stand around it.

What makes libraries break that promise is choice by the number of rows: other tiles, other splits of the sum. Here one
tile shape serves any number of rows of a weight, and the sum over the depth is always one chain in the same order. The
price: few rows of a narrow weight leave multiprocessors idle (4096 columns: 64 programs for 132), and many rows run in
tiles half as high as the best. Expected on an H200 in bfloat16, to be measured: 60 % of the memory's bandwidth for a
few rows; for many 170 TFLOP/s (narrow weights: 31 bytes from the L2 cache per 1000 operations) to 230 (wide ones).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch, operand_of
from penstock_kernels.gpu.launch_table import LaunchShape, launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op

ROW_TILES = 8  # that pass a tile of weights one after the other, while it is in the L2 cache


@triton.jit(do_not_specialize=["tokens"])
def fixed_matmul_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    tokens,
    width,
    depth,
    x_stride,
    out_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    ROW_TILES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program per tile of the result."""
    program = tl.program_id(0)
    column_tiles = tl.cdiv(width, COLUMNS)
    first_tile = program // (ROW_TILES * column_tiles) * ROW_TILES
    height = tl.minimum(tl.cdiv(tokens, ROWS) - first_tile, ROW_TILES)
    inner = program % (ROW_TILES * column_tiles)
    row = (first_tile + inner % height) * ROWS + tl.arange(0, ROWS)
    column = inner // height * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, DEPTH)
    is_row = row < tokens
    is_column = column < width
    x_rows = x_ptr + row.to(tl.int64)[:, None] * x_stride
    weight_rows = weight_ptr + column.to(tl.int64)[:, None] * depth
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, depth, DEPTH):
        inside = (first + step < depth)[None, :]
        x = tl.load(x_rows + (first + step)[None, :], mask=is_row[:, None] & inside, other=0.0).to(OPERAND)
        weight = tl.load(weight_rows + (first + step)[None, :], mask=is_column[:, None] & inside, other=0.0)
        total = tl.dot(x, tl.trans(weight.to(OPERAND)), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    place = out_ptr + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


def fixed_matmul(
    x: Tensor, weight: Tensor, *, out: Tensor, bias: Tensor | None = None, shape: LaunchShape | None = None
) -> Launch:
    """Write `x` [M, K] times `weight` [N, K] transposed, plus `bias` [N], into `out` [M, N], summed in float32.

    The bits of a row of `out` depend on that row of `x`, the weight and the bias alone. `x` and `out` may be parts of
    wider rows. `shape` (rows, columns and depth of a tile) is for who measures: another one gives other bits.
    """
    tokens, depth = x.shape
    width = weight.shape[0]
    shape = shape or launch_shape("fixed_matmul", dtype=weight.dtype, size=width, device=weight.device)
    rows, columns, steps = shape.tile
    return Launch(
        kernel=fixed_matmul_kernel,
        grid=(triton.cdiv(tokens, rows) * triton.cdiv(width, columns),),
        args={
            "x_ptr": x,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "out_ptr": out,
            "tokens": tokens,
            "width": width,
            "depth": depth,
            "x_stride": x.stride(0),
            "out_stride": out.stride(0),
        },
        constants={
            "ROWS": rows,
            "COLUMNS": columns,
            "DEPTH": steps,
            "ROW_TILES": ROW_TILES,
            "HAS_BIAS": bias is not None,
            "PRECISION": "ieee" if weight.dtype == torch.float32 else "tf32",
            "OPERAND": operand_of(weight.dtype),
        },
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    tokens, width, depth = (case.parameters[name] for name in ("tokens", "width", "depth"))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device).to(dtype)

    return {
        "x": normal(tokens, depth),
        "weight": normal(width, depth) * depth**-0.5,
        "bias": normal(width) if case.parameters.get("has_bias") else None,
        "out": torch.empty(tokens, width, dtype=dtype, device=generator.device),
    }


OP = Op(
    name="fixed_matmul",
    make_inputs=_make_inputs,
    launches=lambda inputs: (fixed_matmul(inputs["x"], inputs["weight"], out=inputs["out"], bias=inputs["bias"]),),
    reference=lambda inputs: {"out": torch.nn.functional.linear(inputs["x"], inputs["weight"], inputs["bias"])},
    outputs=("out",),
    cases=(
        Case(name="one-row", parameters={"tokens": 1, "width": 96, "depth": 256}),
        Case(name="bias-and-ends", parameters={"tokens": 67, "width": 100, "depth": 200, "has_bias": True}),
        Case(name="nine-row-tiles", parameters={"tokens": 530, "width": 136, "depth": 32}),
    ),
)
