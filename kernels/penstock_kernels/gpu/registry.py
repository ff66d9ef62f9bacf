"""What the one test of all ops needs of each: how to make its inputs, run it, and judge its outputs.

An op's outputs are tensors among its inputs that it fills. A test poisons them with NaN, runs the reference once in
float32 and once in the op's own type, and allows the kernel twice the error that low precision alone makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from penstock_kernels.gpu.launch import Launch

Inputs = dict[str, Any]  # tensors, numbers and the op's own small dataclasses


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape of an op, and the parameters that `make_inputs` reads."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One op, as its test sees it."""

    name: str
    make_inputs: Callable[[Case, torch.dtype, torch.Generator], Inputs]
    launches: Callable[[Inputs], tuple[Launch, ...]]  # in the order in which they have to run
    reference: Callable[
        [Inputs], Mapping[str, Tensor]
    ]  # by the name of the output; in the type of the inputs it is given
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    is_exact: bool = False  # integers, copies: not a bit may differ
