"""One launch of a Triton kernel as a value: it can be run, or compiled ahead of time for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

HOPPER = GPUTarget("cuda", 90, 32)
LARGEST_INT32 = 2**31 - 1
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.uint8: "u8",
    torch.bool: "i1",
}
OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A kernel, its grid and everything that it is given."""

    kernel: Any  # what `triton.jit` made of a function
    grid: tuple[int, ...]
    args: Mapping[str, Tensor | int | float | None]  # by the names of the kernel's parameters
    constants: Mapping[str, object]  # its constexpr parameters
    num_warps: int = 4
    num_stages: int = 2

    def run(self) -> None:
        """Put it on the current stream; with `TRITON_INTERPRET=1` it runs on the CPU, before this returns."""
        if 0 in self.grid:
            return
        self.kernel[self.grid](**self.args, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages)

    def compile(self, target: GPUTarget = HOPPER) -> CompiledKernel:
        """Compile for a GPU with nothing but the types of the arguments. The kernel must not be an interpreter's."""
        absent = {name: None for name, value in self.args.items() if value is None}
        constants = {**self.constants, **absent}
        names = self.kernel.arg_names
        signature = {name: "constexpr" if name in constants else type_of(self.args[name]) for name in names}
        aligned = {
            (names.index(name),): [["tt.divisibility", 16]] for name, value in self.args.items() if _is_aligned(value)
        }
        source = ASTSource(
            self.kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned
        )
        return triton.compile(
            source, target=target, options={"num_warps": self.num_warps, "num_stages": self.num_stages}
        )


def operand_of(dtype: torch.dtype) -> tl.dtype:
    """What a kernel turns elements of that type into before it multiplies them."""
    if triton.knobs.runtime.interpret:  # which multiplies bfloat16 wrongly
        return tl.float32
    return OPERANDS[dtype]


def type_of(value: Tensor | int | float | None) -> str:
    """Triton's name for the type of an argument."""
    match value:
        case Tensor():
            return f"*{TYPES[value.dtype]}"
        case float():
            return "fp32"
        case int():
            return "i32" if -LARGEST_INT32 <= value <= LARGEST_INT32 else "i64"
        case _:
            raise TypeError(f"a kernel cannot be given {value!r}")


def _is_aligned(value: Tensor | int | float | None) -> bool:
    """What Triton would find at a launch: allocators align tensors, and strides of real shapes are multiples of 16."""
    return isinstance(value, Tensor) or (type(value) is int and value % 16 == 0)
