"""What this machine can do at best, measured: benchmarks print it beside their own figures."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from penstock_kernels.cpu.library import Library, runnable_variants

READ_BYTES = 256 << 20
"""Several times any cache, so that the memory is what is measured."""
REPEATS = 5
MATMUL_SIZE = 2048


def measure_read_bandwidth(num_threads: int) -> float:
    """Bytes per second at which `num_threads` threads together read memory, best of a few repeats."""
    data = torch.ones(READ_BYTES, dtype=torch.uint8)
    variants = runnable_variants()
    if variants:
        library = Library(variants[0])
        library.set_num_threads(num_threads)
        return max(float(library.read_bandwidth(data.data_ptr(), READ_BYTES)) for _ in range(REPEATS))
    words = data.view(torch.int64)
    return READ_BYTES / _best_time(lambda: words.sum())


def measure_matmul(dtype: torch.dtype) -> float:
    """Floating-point operations per second of torch's own large matmul, best of a few repeats."""
    left, right = (torch.ones(MATMUL_SIZE, MATMUL_SIZE, dtype=dtype) for _ in range(2))
    return 2.0 * MATMUL_SIZE**3 / _best_time(lambda: left @ right)


def _best_time(function: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)
