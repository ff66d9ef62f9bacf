"""Memory in large pages: shapes, alignment, and that it goes back to the system."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from penstock_kernels.cpu import memory


def test_zeros_are_dense_and_begin_at_a_large_page():
    for shape in ((3, 5), (1, 2, 3, 2, 16, 64), (0, 4)):
        tensor = memory.zeros(shape, torch.bfloat16)
        assert tensor.shape == shape
        assert tensor.is_contiguous()
        assert tensor.dtype is torch.bfloat16
        assert not tensor.any()
        assert tensor.numel() == 0 or tensor.data_ptr() % memory.LARGE_PAGE == 0


def test_parts_of_an_arena_are_aligned_and_do_not_overlap():
    arena = memory.Arena()
    parts = [arena.take(nbytes) for nbytes in (1, 100, 64, memory.CHUNK // 4 + 1, 5000, memory.CHUNK // 4) * 4]
    for value, part in enumerate(parts):
        part.fill_(value)
    for value, part in enumerate(parts):
        assert part.data_ptr() % memory.ALIGNMENT == 0
        assert (part == value).all()


def test_memory_is_freed_with_its_last_part():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * resource.getpagesize()

    before = resident()
    for _ in range(4):
        arena = memory.Arena()
        parts = [arena.take(4 << 20).fill_(1) for _ in range(24)]
        assert resident() > before + (64 << 20)
        del arena, parts
    assert resident() < before + (32 << 20)
