"""A weight on a GPU as one plain matrix, multiplied by cuBLAS or by a kernel whose rows do not know each other."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.gpu.fixed_matmul import fixed_matmul
from penstock_kernels.gpu.matvec import Norm, matvec


class DenseWeight(PackedWeight):
    """`values` [N, K] on the device; the rows of a gated weight are [gate; up]."""

    __slots__ = ("bias", "is_fixed", "values")

    def __init__(self, values: Tensor, *, bias: Tensor | None, is_fixed: bool = False) -> None:
        super().__init__(
            out_features=values.shape[0],
            in_features=values.shape[1],
            nbytes=values.nbytes + (0 if bias is None else bias.nbytes),
        )
        self.values = values
        self.bias = bias
        self.is_fixed = is_fixed  # the bits of a row do not depend on the rows around it

    def product(self, x: Tensor, out: Tensor) -> Tensor:
        """Write `x` [M, K] times the weight, and the bias, into `out` [M, N], which may be wider (float32) than `x`."""
        if self.is_fixed:
            fixed_matmul(x, self.values, out=out, bias=self.bias).run()
            return out
        if out.dtype != x.dtype:
            return self._wide_product(x, out)
        if self.bias is None:
            return torch.mm(x, self.values.t(), out=out)
        return torch.addmm(self.bias, x, self.values.t(), out=out)

    def product_of_few(
        self,
        x: Tensor,
        out: Tensor,
        *,
        norm: Norm | None = None,
        residual: Tensor | None = None,
        is_gated: bool = False,
    ) -> Tensor:
        """The same for at most `MOST_ROWS` rows, and what stands around it: see `matvec`."""
        matvec(x, self.values, out=out, bias=self.bias, norm=norm, residual=residual, is_gated=is_gated).run()
        return out

    def _wide_product(self, x: Tensor, out: Tensor) -> Tensor:
        """The product in another type than `x`, rounded once where the device can."""
        if x.is_cuda:
            torch.mm(x, self.values.t(), out_dtype=out.dtype, out=out)
        else:
            torch.mm(x.to(out.dtype), self.values.t().to(out.dtype), out=out)
        return out if self.bias is None else out.add_(self.bias)

    def rows(self, ids: Tensor, inside: Tensor, out: Tensor) -> Tensor:
        """Write rows `ids` int32 [T] into `out` [T, K]; an id without a row takes the nearest. `inside` is scratch for
        such ids, like `ids`."""
        torch.clamp(ids, 0, self.out_features - 1, out=inside)
        return torch.index_select(self.values, 0, inside, out=out)
