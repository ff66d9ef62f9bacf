"""SiLU or GELU of one half of each row, times the other half: the middle of a gated MLP."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op

ACTIVATIONS = ("silu", "gelu_tanh")


def reference(gate_up: Tensor, activation: str) -> Tensor:
    """See `gated_activation`."""
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "silu":
        return torch.nn.functional.silu(gate) * up
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


@triton.jit
def sigmoid(z):
    """Of float32, without overflow."""
    small = tl.exp(-tl.abs(z))
    return tl.where(z >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def gated_activation_kernel(gate_up_ptr, out_ptr, width, IS_SILU: tl.constexpr, BLOCK: tl.constexpr):
    """One program per row and block of columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    start = gate_up_ptr + row * 2 * width
    gate = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + width + column, mask=inside, other=0.0).to(tl.float32)
    z = gate if IS_SILU else 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)  # (1 + tanh z) / 2 = σ(2 z)
    tl.store(out_ptr + row * width + column, (gate * sigmoid(z) * up).to(out_ptr.dtype.element_ty), mask=inside)


def gated_activation(gate_up: Tensor, activation: str, *, out: Tensor) -> Launch:
    """Write `activation(gate) * up` into `out` [T, I]; `gate_up` [T, 2 I] holds both halves, `activation` is one of
    `ACTIVATIONS`. Computed in float32."""
    tokens, width = out.shape
    shape = launch_shape("gated_activation", dtype=out.dtype, size=width, device=out.device)
    (block,) = shape.tile
    return Launch(
        kernel=gated_activation_kernel,
        grid=(tokens, triton.cdiv(width, block)),
        args={"gate_up_ptr": gate_up, "out_ptr": out, "width": width},
        constants={"IS_SILU": activation == "silu", "BLOCK": block},
        num_warps=shape.warps,
    )


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    tokens, width = case.parameters["tokens"], case.parameters["width"]
    gate_up = 4 * torch.randn(tokens, 2 * width, generator=generator, device=generator.device)
    return {
        "gate_up": gate_up.to(dtype),
        "activation": case.parameters["activation"],
        "out": torch.empty(tokens, width, dtype=dtype, device=generator.device),
    }


OP = Op(
    name="gated_activation",
    make_inputs=_make_inputs,
    launches=lambda inputs: (gated_activation(inputs["gate_up"], inputs["activation"], out=inputs["out"]),),
    reference=lambda inputs: {"out": reference(inputs["gate_up"], inputs["activation"])},
    outputs=("out",),
    cases=tuple(
        Case(
            name=f"{activation}-{tokens}x{width}",
            parameters={"activation": activation, "tokens": tokens, "width": width},
        )
        for activation in ACTIVATIONS
        for tokens, width in ((1, 96), (3, 1536), (2, 1025))
    ),
)
