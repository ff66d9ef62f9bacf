"""What a device can do at best, measured: the copy and the matmul that everything else is a share of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from penstock.bench.gpu.clock import Clock

COPY_BYTES = 4 << 30
MATMUL_SIZE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings of one device in this run."""

    copy: float  # bytes per second of a large copy, read and written ones together
    matmul: float  # operations per second of a large matmul in bf16 on random data; a multiply-add is two
    launch: float  # seconds of one empty launch as the clock sees it: no figure is below

    def floor(self, num_bytes: int, operations: int) -> float:
        """Seconds that moving so many bytes, or so much arithmetic, takes at best."""
        return max(num_bytes / self.copy, operations / self.matmul)

    def bound(self, num_bytes: int, operations: int) -> str:
        """Which of the two takes longer: "copy" or "matmul"."""
        return "matmul" if operations / self.matmul > num_bytes / self.copy else "copy"


def measure_copy(clock: Clock, num_bytes: int, device: torch.device) -> float:
    """Bytes per second, read and written ones together, of copying so many."""
    source = torch.empty(num_bytes // 4, dtype=torch.int32, device=device).random_()
    target = torch.empty_like(source)
    return 2 * num_bytes / clock.measure(lambda: target.copy_(source)).median


def measure_limits(clock: Clock, device: torch.device, *, is_smoke: bool = False) -> Limits:
    """Measure now; `is_smoke`: with sizes that only show that it runs."""
    num_bytes, size = (1 << 20, 128) if is_smoke else (COPY_BYTES, MATMUL_SIZE)
    copy = measure_copy(clock, num_bytes, device)
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    matmul = clock.measure(lambda: torch.mm(left, right, out=out))
    one = torch.zeros(1, device=device)
    return Limits(
        copy=copy,
        matmul=2 * size**3 / matmul.median,
        launch=clock.measure(one.zero_).median,
    )
