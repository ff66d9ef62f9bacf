"""Every op of the registry, against its reference: in Triton's interpreter, and on a GPU where there is one.

Every tensor stands between poison: what is read beyond an end spoils the result, what is written there is seen.
"""

from __future__ import annotations

import copy

import pytest
import torch

from penstock_kernels.gpu import OPS
from penstock_kernels.gpu.registry import Inputs
from support.guarded import Guards

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WIDE = torch.float32
SLACK = 2.0  # how many times the error of plain low precision is allowed
FLOOR = 2e-6  # relative, of float32 sums in another order
TRUNCATION = 2**-8  # relative: the interpreter cuts bfloat16 off where a GPU rounds


def widened(value):
    """Inputs as float32: what low precision would have computed had it none."""
    if isinstance(value, torch.Tensor):
        return value.to(WIDE) if value.is_floating_point() and value.itemsize < 4 else value
    if hasattr(value, "__dataclass_fields__"):
        fields = {name: widened(getattr(value, name)) for name in value.__dataclass_fields__}
        return type(value)(**fields)
    return value


def cloned(inputs: Inputs) -> Inputs:
    return copy.deepcopy(inputs)


def largest_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Over all elements, relative to the largest of them; where the truth is NaN nothing may have been written."""
    found, truth = found.double(), truth.double()
    assert torch.equal(found.isnan(), truth.isnan()), "wrong elements were written"
    scale = max(1e-30, truth.nan_to_num().abs().max().item()) if truth.numel() else 1.0
    return ((found - truth).nan_to_num().abs().max().item() if truth.numel() else 0.0) / scale


def poison(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        tensor.copy_(torch.full(tensor.shape, torch.nan).to(tensor.dtype))
    else:
        tensor.fill_(-77)


CASES = [
    pytest.param(op, case, dtype, id=f"{op.name}-{case.name}-{str(dtype).removeprefix('torch.')}")
    for op in OPS
    for case in op.cases
    for dtype in op.dtypes
]


@pytest.mark.parametrize(("op", "case", "dtype"), CASES)
def test_an_op_is_as_good_as_plain_torch(op, case, dtype):
    guards = Guards()
    inputs = guards.house(op.make_inputs(case, dtype, torch.Generator(DEVICE).manual_seed(len(case.name))))
    truth = op.reference({name: widened(value) for name, value in cloned(inputs).items()})
    plain = op.reference(cloned(inputs))
    for name in op.outputs:
        poison(inputs[name])
    for launch in op.launches(inputs):
        launch.run()
    assert guards.broken() == [], "written beside"
    for name, right in truth.items():
        if op.is_exact:
            torch.testing.assert_close(inputs[name], right.to(inputs[name].dtype), rtol=0, atol=0, equal_nan=True)
            continue
        is_cut = DEVICE == "cpu" and inputs[name].dtype == torch.bfloat16
        allowed = SLACK * largest_error(plain[name], right) + FLOOR + is_cut * TRUNCATION
        assert largest_error(inputs[name], right) <= allowed, name
