"""Memory in large pages: what is streamed at every step should not also wait for page-table walks."""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

LARGE_PAGE = 2 << 20
ALIGNMENT = 64
CHUNK = 32 << 20
"""Small parts share regions of this size."""


def map_bytes(nbytes: int) -> Tensor:
    """Zeroed uint8 [nbytes] in large pages where the system has them, at the start of one; freed with the tensor."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(nbytes, dtype=torch.uint8)
    length = -(-nbytes // LARGE_PAGE) * LARGE_PAGE + LARGE_PAGE
    region = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages: small ones work too
            region.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(region, dtype=torch.uint8)
    begin = -whole.data_ptr() % LARGE_PAGE
    return whole[begin : begin + nbytes]


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A dense tensor of zeros in large pages: what a KV cache should lie in."""
    return map_bytes(max(1, math.prod(shape)) * dtype.itemsize).view(dtype)[: math.prod(shape)].view(shape)


class Arena:
    """Hands out parts of shared regions; a region is freed when its last part is."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], aligned to a cache line."""
        if nbytes > CHUNK // 4:
            return map_bytes(nbytes)
        if nbytes > self._free.shape[0]:
            self._free = map_bytes(CHUNK)
        part = self._free[:nbytes]
        self._free = self._free[-(-nbytes // ALIGNMENT) * ALIGNMENT :]
        return part
