"""RMSNorm of rows, with the residual connection before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op


def reference(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm of `x + residual` times `weight`, and that sum."""
    total = x if residual is None else x + residual
    wide = total.float()
    norm = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return norm.to(x.dtype) * weight.to(x.dtype), total


@triton.jit
def rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, x_stride, width, eps, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):
    """One program per row, which it holds in registers."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    wide = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        wide += tl.load(residual_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(residual_ptr + row * width + column, wide.to(residual_ptr.dtype.element_ty), mask=inside)
    scale = tl.rsqrt(tl.sum(wide * wide) / width + eps)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + column, (wide * scale * weight).to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, out: Tensor, residual: Tensor | None = None) -> Launch:
    """Write the norm of each row of `x` [T, H] into `out` [T, H].

    With `residual` [T, H] the sum of both is normed, and left in `residual`. `x` may be a part of wider rows; `weight`
    is [H]; sums are in float32.
    """
    tokens, width = x.shape
    block = int(triton.next_power_of_2(width))
    return Launch(
        kernel=rms_norm_kernel,
        grid=(tokens,),
        args={
            "x_ptr": x,
            "residual_ptr": residual,
            "weight_ptr": weight,
            "out_ptr": out,
            "x_stride": x.stride(0),
            "width": width,
            "eps": eps,
        },
        constants={"HAS_RESIDUAL": residual is not None, "BLOCK": block},
        num_warps=max(1, min(16, block // 256)),
    )


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    tokens, width, has_residual = (case.parameters[name] for name in ("tokens", "width", "has_residual"))

    def rows() -> Tensor:
        return torch.randn(tokens, width, generator=generator, device=generator.device).to(dtype)

    return {
        "x": rows(),
        "residual": rows() if has_residual else None,
        "weight": torch.randn(width, generator=generator, device=generator.device).to(dtype),
        "out": torch.empty(tokens, width, dtype=dtype, device=generator.device),
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    return (rms_norm(inputs["x"], inputs["weight"], 1e-6, out=inputs["out"], residual=inputs["residual"]),)


def _reference(inputs: Inputs) -> dict[str, Tensor]:
    out, total = reference(inputs["x"], inputs["weight"], 1e-6, inputs["residual"])
    return {"out": out} if inputs["residual"] is None else {"out": out, "residual": total}


OP = Op(
    name="rms_norm",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=_reference,
    outputs=("out",),
    cases=tuple(
        Case(
            name=f"{tokens}x{width}{'+residual' * has_residual}",
            parameters={"tokens": tokens, "width": width, "has_residual": has_residual},
        )
        for tokens, width, has_residual in ((1, 64, False), (3, 576, True), (5, 4096, True), (2, 100, False))
    ),
)
