"""Parameters that know how checkpoints fill them: stacked parts, shapes, and packing as soon as all parts are there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from penstock.errors import ModelError
from penstock.layers.device_ops import DeviceOps
from penstock.layers.weight_form import GROUP, Weight, WeightForm, stack
from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.cpu.quant_weight import quantize
from penstock_kernels.kv_scales import KvScales


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one tensor of a checkpoint goes."""

    name: str  # in the checkpoint
    shape: tuple[int, ...]  # (): one number, which a checkpoint may hold as a vector of one
    load: Callable[[Weight], None]
    is_optional: bool = False  # a checkpoint may do without


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


class LayerScales:
    """What calibration found for a float8 cache of one layer, 1 where a checkpoint holds nothing.

    Each is one number, the multiplier that restores the value. It stands in `self_attn` as `k_scale` and `v_scale`
    where llm-compressor made it (early releases: `k_proj.output_scale`), as `k_proj.k_scale` where NVIDIA's ModelOpt
    did, and as `attn.k_scale` where vLLM's own names were saved; old files hold one `kv_scale` for both. Scales of
    single heads are refused by their shape.
    """

    def __init__(self, attention: str) -> None:
        self._names = {
            kind: tuple(
                f"{attention}.{name}"
                for name in (
                    f"{kind}_scale",
                    f"{kind}_proj.{kind}_scale",
                    f"attn.{kind}_scale",
                    f"{kind}_proj.output_scale",
                    "kv_scale",
                )
            )
            for kind in ("k", "v")
        }
        self._found: dict[str, float] = {}  # by name

    @property
    def is_calibrated(self) -> bool:
        """Whether the checkpoint had any."""
        return bool(self._found)

    @property
    def value(self) -> KvScales:
        """Where there are several spellings, the first in the order above counts."""
        key, value = (
            next((self._found[name] for name in names if name in self._found), 1.0) for names in self._names.values()
        )
        return KvScales(key=key, value=value)

    def slots(self) -> Iterator[Slot]:
        """All spellings."""
        for name in dict.fromkeys(name for names in self._names.values() for name in names):
            yield Slot(name=name, shape=(), load=partial(self._load, name), is_optional=True)

    def _load(self, name: str, weight: Weight) -> None:
        assert isinstance(weight, Tensor), f"{name}: a quantised scale"
        scale = float(weight)
        if not (math.isfinite(scale) and scale > 0):
            raise ModelError(f"{name} is {scale:g}, not a positive number; --kv-cache-dtype auto needs no scales")
        self._found[name] = scale


def place(weight: Weight, ops: DeviceOps) -> Weight:
    """`weight` on the device of `ops`."""
    if isinstance(weight, Tensor):
        return ops.place(weight)
    data, scale, minimum = (ops.place(part) for part in (weight.data, weight.scale, weight.minimum))
    return replace(weight, data=data, scale=scale, minimum=minimum)


def all_slots(owners: Sequence[Vector | Matrix | LayerScales]) -> dict[str, Slot]:
    """The slots of all owners by name."""
    return {slot.name: slot for owner in owners for slot in owner.slots()}
