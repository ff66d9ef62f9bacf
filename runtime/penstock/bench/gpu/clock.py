"""How long work on a device takes: the median of many runs, and the spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

Work = Callable[[], object]

WARM_UPS = 3  # compilation, handles and caches of libraries
FLUSHES = 4  # times the L2 cache that is written before each run


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of one run."""

    median: float
    low: float  # a tenth of the runs was faster
    high: float  # a tenth was slower
    repeats: int
    is_graph: bool  # launches were replayed from a captured graph; if not, the host's cost of each is in the time

    @classmethod
    def of(cls, seconds: list[float], *, is_graph: bool) -> Timing:
        """Of at least one run."""
        ordered = sorted(seconds)
        edge = len(ordered) // 10
        return cls(
            median=statistics.median(ordered),
            low=ordered[edge],
            high=ordered[-1 - edge],
            repeats=len(ordered),
            is_graph=is_graph,
        )


class Clock(Protocol):
    """Measures work of one device."""

    def measure(self, work: Work) -> Timing:
        """The time of `work`, which puts something on the device and may be run again and again."""


class CudaClock:
    """Events around each run; before it the L2 cache is overwritten, which also keeps the host ahead of the device."""

    def __init__(self, device: torch.device, *, seconds: float = 0.1, fewest: int = 7, most: int = 100) -> None:
        """`seconds` to spend on one figure, within `fewest` and `most` runs."""
        self._seconds, self._fewest, self._most = seconds, fewest, most
        size = FLUSHES * torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(size, 1 << 28), dtype=torch.uint8, device=device)

    def measure(self, work: Work) -> Timing:
        """See `Clock.measure`."""
        run, is_graph = captured(work)
        self._sample(run, WARM_UPS)
        estimate = statistics.median(self._sample(run, WARM_UPS))
        count = int(self._seconds / max(estimate, 1e-7))
        return Timing.of(self._sample(run, min(max(count, self._fewest), self._most)), is_graph=is_graph)

    def _sample(self, run: Work, count: int) -> list[float]:
        event = partial(torch.cuda.Event, enable_timing=True)
        pairs = [(event(), event()) for _ in range(count)]
        for begin, end in pairs:
            self._flush.zero_()
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]


def captured(work: Work) -> tuple[Work, bool]:
    """`work` as a replay of a CUDA graph, after a few runs of it; as it is where it cannot be captured."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            work()
    here.wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError:  # it waits for the device, or allocates outside torch
        torch.cuda.synchronize()
        return work, False
    return graph.replay, True


class HostClock:
    """For the CPU, where work is over when it returns: shows that a benchmark runs, not how fast."""

    def __init__(self, repeats: int = 1) -> None:
        self._repeats = repeats

    def measure(self, work: Work) -> Timing:
        """See `Clock.measure`."""
        seconds = []
        for _ in range(self._repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return Timing.of(seconds, is_graph=False)
