"""Parameters that know how checkpoints fill them: stacked parts, shapes, and packing as soon as all parts are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penstock.layers.device_ops import DeviceOps
from penstock.layers.weight_form import GROUP, Weight, WeightForm, stack
from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.cpu.quant_weight import quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one tensor of a checkpoint goes."""

    name: str  # in the checkpoint
    shape: tuple[int, ...]
    load: Callable[[Weight], None]


class Vector:
    """A float32 vector, such as the weight of a norm."""

    def __init__(self, name: str, size: int, ops: DeviceOps) -> None:
        self.name = name
        self.size = size
        self.ops = ops
        self.value = torch.empty(size, device="meta")

    def slots(self) -> Iterator[Slot]:
        """The one tensor that fills it."""
        yield Slot(name=self.name, shape=(self.size,), load=self._load)

    def _load(self, weight: Weight) -> None:
        assert isinstance(weight, Tensor), f"{self.name}: a quantised vector"
        self.value = self.ops.place(weight.to(torch.float32, copy=True))  # a copy: the checkpoint's memory goes away


class Matrix:
    """A weight [N, K] whose rows come from one or several tensors; packed when the last of them has come."""

    def __init__(
        self,
        rows: Mapping[str, int],
        in_features: int,
        *,
        ops: DeviceOps,
        form: WeightForm,
        has_bias: bool = False,
        is_gated: bool = False,
    ) -> None:
        self.rows = dict(rows)  # name of a part without ".weight" -> its rows, in the order of stacking
        self.in_features = in_features
        self.ops = ops
        self.form = form
        self.has_bias = has_bias
        self.is_gated = is_gated
        self._waiting: dict[str, Weight] = {}
        self._packed: PackedWeight | None = None

    @property
    def packed(self) -> PackedWeight:
        """The weight as the kernels read it; only after all parts have been loaded."""
        assert self._packed is not None, f"{', '.join(self.rows)} not loaded"
        return self._packed

    def slots(self) -> Iterator[Slot]:
        """The tensors that fill it."""
        for name, num_rows in self.rows.items():
            yield self._slot(f"{name}.weight", (num_rows, self.in_features))
            if self.has_bias:
                yield self._slot(f"{name}.bias", (num_rows,))

    def _slot(self, name: str, shape: tuple[int, ...]) -> Slot:
        def load(weight: Weight) -> None:
            self._waiting[name] = place(weight, self.ops)
            if len(self._waiting) == len(self.rows) * (1 + self.has_bias):
                self._pack()

        return Slot(name=name, shape=shape, load=load)

    def _pack(self) -> None:
        bias = self._bias() if self.has_bias else None
        weight = stack([self._waiting.pop(f"{name}.weight") for name in self.rows], self.form)
        if self.form.bits is not None and isinstance(weight, Tensor) and self.in_features % GROUP == 0:
            weight = quantize(weight, self.form.bits, GROUP)
        self._packed = self.ops.pack(weight, compute=self.form.compute, bias=bias, interleave_gate=self.is_gated)

    def _bias(self) -> Tensor:
        parts = [self._waiting.pop(f"{name}.bias") for name in self.rows]
        return torch.cat([part.float() for part in parts if isinstance(part, Tensor)])


def place(weight: Weight, ops: DeviceOps) -> Weight:
    """`weight` on the device of `ops`."""
    if isinstance(weight, Tensor):
        return ops.place(weight)
    data, scale, minimum = (ops.place(part) for part in (weight.data, weight.scale, weight.minimum))
    return replace(weight, data=data, scale=scale, minimum=minimum)


def all_slots(owners: Sequence[Vector | Matrix]) -> dict[str, Slot]:
    """The slots of all owners by name."""
    return {slot.name: slot for owner in owners for slot in owner.slots()}
