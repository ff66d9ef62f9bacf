"""How far an op's outputs are from its reference's, for any op of the registry."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from penstock_kernels.gpu.registry import Inputs, Op
from penstock_kernels.gpu.sample_tokens import Sampling, kept

SAMPLED_ROWS = 8  # whose tokens are compared with what may be drawn: each is sorted for it
POISON = -77


def run_and_compare(op: Op, inputs: Inputs) -> float:
    """Run the op once over poisoned outputs; returns the largest error of an output.

    That is relative to its norm in float32, or the share of wrong elements of an exact op; NaN where something else was
    written than should have been.
    """
    expected = None
    if op.name != "sample_tokens":
        expected = op.reference({name: widened(value) for name, value in copy.deepcopy(inputs).items()})
    for name in op.outputs:
        poison(inputs[name])
    for launch in op.launches(inputs):
        launch.run()
    if expected is None:
        return error_of_tokens(inputs["logits"], inputs["sampling"], inputs["token_ids"])
    compare = share_unequal if op.is_exact else relative_error
    return max((compare(inputs[name], right) for name, right in expected.items()), key=nan_last)


def nan_last(error: float) -> float:
    """Orders errors so that NaN is the largest."""
    return float("inf") if error != error else error


def widened(value: Any) -> Any:
    """Inputs as float32: what low precision would compute had it none."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.itemsize < 4 else value
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{name: widened(getattr(value, name)) for name in value.__dataclass_fields__})
    return value


def poison(tensor: Tensor) -> None:
    """What must not be found in an output afterwards."""
    value = float("nan") if tensor.is_floating_point() else POISON
    tensor.copy_(torch.full(tensor.shape, value, device=tensor.device).to(tensor.dtype))


def relative_error(found: Tensor, right: Tensor) -> float:
    """Norm of the difference over the norm of what is right; NaN if they are not numbers in the same places."""
    found, right = found.float(), right.float().to(found.device)
    if not torch.equal(found.isnan(), right.isnan()):
        return float("nan")
    norm = right.nan_to_num().norm()
    return float((found - right).nan_to_num().norm() / norm) if norm else float(found.nan_to_num().norm())


def share_unequal(found: Tensor, right: Tensor) -> float:
    """Share of elements that differ, NaN being equal to NaN."""
    right = right.to(found.device, found.dtype)
    is_same = found == right
    if found.is_floating_point():
        is_same |= found.isnan() & right.isnan()
    return float((~is_same).float().mean())


def error_of_tokens(logits: Tensor, sampling: Sampling, token_ids: Tensor) -> float:
    """Share of the checked rows whose token could not have been drawn."""
    rows = range(min(SAMPLED_ROWS, len(logits)))
    wrong = 0
    for row in rows:
        values, token = logits[row], int(token_ids[row])
        if sampling.temperature[row] == 0:
            wrong += token != int((values == values.max()).nonzero()[0])
            continue
        names = ("temperature", "top_k", "top_p", "min_p")
        allowed = kept(values, *(getattr(sampling, name)[row].item() for name in names))
        wrong += not (0 <= token < len(values) and bool(allowed[token]))
    return wrong / len(rows)
