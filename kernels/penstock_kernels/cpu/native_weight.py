"""Weights in the compiled kernels' layout."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from penstock_kernels.cpu.library import Library
from penstock_kernels.cpu.memory import Arena
from penstock_kernels.cpu.packed_weight import ComputeType, CpuWeight
from penstock_kernels.cpu.quant_weight import QuantWeight

GROUP = 32
"""Elements along K that share a scale in the kernels."""
KINDS = {torch.float32: 0, torch.bfloat16: 1}
INTEGER_KINDS = {8: 2, 4: 3}


class WeightStruct(ctypes.Structure):
    """Mirror of `Weight` in csrc/weight.h."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("rounds_activations", ctypes.c_int32),
        ("has_float_scales", ctypes.c_int32),
        ("is_symmetric", ctypes.c_int32),
        ("is_gated", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class SourceStruct(ctypes.Structure):
    """Mirror of `PackSource` in csrc/weight.h."""

    _fields_ = (("values", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("minimums", ctypes.c_void_p))


class NativeWeight(CpuWeight):
    """A weight that the C++ kernels read; `address` is that of its C struct."""

    __slots__ = ("_bias", "_data", "_embedding", "_linear", "_struct", "address", "outputs")

    def __init__(
        self,
        library: Library,
        arena: Arena,
        weight: Tensor | QuantWeight,
        *,
        compute: ComputeType,
        bias: Tensor | None,
        interleave_gate: bool,
    ) -> None:
        struct = WeightStruct(rounds_activations=compute is ComputeType.BFLOAT16, is_gated=interleave_gate)
        parts = _quant_parts(struct, weight) if isinstance(weight, QuantWeight) else _float_parts(struct, weight)
        nbytes = library.packed_bytes(ctypes.addressof(struct))
        super().__init__(
            out_features=struct.rows,
            in_features=struct.columns,
            nbytes=nbytes,
            compute=compute,
            is_gated=interleave_gate,
        )
        self._bias = None if bias is None else bias.detach().float().contiguous().clone()
        self._data = arena.take(nbytes)
        struct.data = self._data.data_ptr()
        struct.bias = None if self._bias is None else self._bias.data_ptr()
        self._struct = struct
        self.address = ctypes.addressof(struct)
        self.outputs = struct.rows // 2 if interleave_gate else struct.rows
        source = SourceStruct(*(part.data_ptr() for part in parts))
        library.pack(self.address, ctypes.addressof(source))
        self._linear = library.linear
        self._embedding = library.embedding

    def linear(
        self,
        x: Tensor,
        norm: Tensor | None = None,
        eps: float = 0.0,
        residual: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """See `ops.linear`."""
        rows = x.shape[0]
        require_dense(x, rows, self.in_features)
        if out is None:
            out = torch.empty(rows, self.outputs)
        else:
            require_dense(out, rows, self.outputs)
        if residual is not None:
            require_dense(residual, rows, self.outputs)
        self._linear(
            self.address,
            x.data_ptr(),
            rows,
            None if norm is None else norm.data_ptr(),
            eps,
            None if residual is None else residual.data_ptr(),
            out.data_ptr(),
        )
        return out

    def embedding(self, ids: Tensor) -> Tensor:
        """See `ops.embedding`."""
        ids = ids.long().contiguous()
        out = torch.empty(ids.shape[0], self.in_features)
        wrong = self._embedding(self.address, ids.data_ptr(), ids.shape[0], out.data_ptr())
        if wrong >= 0:
            raise IndexError(f"id {int(ids[wrong])} has no row among {self.out_features}")
        return out


def require_dense(x: Tensor, rows: int, columns: int) -> None:
    """Refuse what the kernels would misread: ValueError unless `x` is dense float32 [rows, columns]."""
    if x.dtype is not torch.float32 or x.shape != (rows, columns) or not x.is_contiguous():
        raise ValueError(f"expected dense float32 [{rows}, {columns}], not {x.dtype} {tuple(x.shape)} {x.stride()}")


def _float_parts(struct: WeightStruct, weight: Tensor) -> tuple[Tensor]:
    """Describe a float weight in `struct` and return its values in the type that is kept."""
    keep = torch.bfloat16 if struct.rounds_activations or weight.dtype is torch.bfloat16 else torch.float32
    struct.kind = KINDS[keep]
    struct.rows, struct.columns = weight.shape
    return (weight.detach().to(keep).contiguous(),)


def _quant_parts(struct: WeightStruct, weight: QuantWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Describe a quantised weight in `struct`; its values, scales and minimums, in float16 where that is exact."""
    repeat = weight.group // GROUP
    scale, minimum = (part.repeat_interleave(repeat, dim=1) for part in (weight.scale, weight.minimum))
    exact = all(bool((part.half() == part).all()) for part in (scale, minimum))
    struct.kind = INTEGER_KINDS[weight.bits]
    struct.rows, struct.columns = weight.out_features, weight.in_features
    struct.has_float_scales = not exact
    struct.is_symmetric = exact and weight.bits == 8 and bool((minimum.float() == scale.float() * -128).all())
    keep = torch.float16 if exact else torch.float32
    return weight.data.contiguous(), scale.to(keep).contiguous(), minimum.to(keep).contiguous()
