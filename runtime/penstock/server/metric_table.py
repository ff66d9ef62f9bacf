"""Metrics as one row of float64 per front-end process, in a file that all front-ends of a pod can read.

Every series is known at the start, so that counting is one addition in shared memory, and a page is the rows of all
front-ends merged: whichever of them answers, it tells the truth for all.
"""

from __future__ import annotations

import itertools
import mmap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

SLOT_BYTES = 8
PREFIX = "metrics-"  # of the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric with all its series. A histogram has bounds, and one series."""

    name: str
    kind: str  # counter, gauge or histogram
    text: str
    merge: str = "sum"  # over front-ends: sum; max, for totals that all of them see; own, for what all see alike
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ((),)  # of the labels, one tuple per series
    bounds: tuple[float, ...] = ()

    @property
    def num_slots(self) -> int:
        """Numbers kept: one per series; for a histogram each bucket, what is above the last one, and the sum."""
        return len(self.bounds) + 2 if self.bounds else len(self.values)


class MetricTable:
    """The row of this front-end, and the merged row of all. Without a folder there is no other front-end."""

    def __init__(self, families: Sequence[Family], *, folder: Path | None = None, slot: int = 0) -> None:
        """A front-end that follows a dead one in the same slot goes on with its counters, not with its gauges."""
        self._families = list(families)
        self._folder = folder
        self._starts = dict(
            zip(
                (family.name for family in families),
                itertools.accumulate((family.num_slots for family in families), initial=0),
                strict=False,
            )
        )
        self._num_slots = sum(family.num_slots for family in families)
        self._row = self._open(slot)
        self.values = memoryview(self._row).cast("d")
        for family in families:
            if family.kind == "gauge":
                for index in range(family.num_slots):
                    self.values[self._starts[family.name] + index] = 0.0

    def _open(self, slot: int) -> mmap.mmap:
        size = self._num_slots * SLOT_BYTES
        if self._folder is None:
            return mmap.mmap(-1, size)
        with open(self._folder / f"{PREFIX}{slot}", "a+b") as file:
            file.truncate(size)
            return mmap.mmap(file.fileno(), size)

    @property
    def first_slots(self) -> dict[str, int]:
        """Metric name -> where the number of its first (often only) series is, in `values`."""
        return dict(self._starts)

    def slot(self, name: str, *labels: str) -> int:
        """Where the number of one series is, in `values`."""
        family = next(family for family in self._families if family.name == name)
        return self._starts[name] + family.values.index(labels)

    def histogram(self, name: str) -> Histogram:
        """A histogram to observe with."""
        family = next(family for family in self._families if family.name == name)
        return Histogram(self.values, self._starts[name], family.bounds)

    def relabel(self, family: Family) -> None:
        """Replace a family by one of the same name and size whose labels say something newer."""
        place = next(index for index, known in enumerate(self._families) if known.name == family.name)
        if self._families[place] != family:
            assert self._families[place].num_slots == family.num_slots, f"{family.name} changed its size"
            self._families[place] = family

    def merged(self) -> NDArray[np.float64]:
        """One row for all front-ends. # [num_slots] float64"""
        if self._folder is None:
            return np.array(self.values)
        size = self._num_slots * SLOT_BYTES
        rows = [data for file in self._folder.glob(f"{PREFIX}*") if len(data := file.read_bytes()) == size]
        table = np.frombuffer(b"".join(rows)).reshape(len(rows), self._num_slots)
        merged: NDArray[np.float64] = table.sum(axis=0)
        for family in self._families:
            start = self._starts[family.name]
            columns = slice(start, start + family.num_slots)
            if family.merge == "max":
                merged[columns] = table[:, columns].max(axis=0)
            elif family.merge == "own":
                merged[columns] = self.values[columns]
        return merged

    def build_families(self, merged: NDArray[np.float64]) -> Iterator[Metric]:
        """A merged row as prometheus_client knows metrics."""
        for family in self._families:
            start = self._starts[family.name]
            yield build_metric(family, merged[start : start + family.num_slots])


class Histogram:
    """Counts observations in buckets; inclusive upper bounds, as Prometheus has them."""

    __slots__ = ("_bounds", "_start", "_sum", "_values")

    def __init__(self, values: memoryview[float], start: int, bounds: Sequence[float]) -> None:
        self._values, self._start, self._bounds = values, start, bounds
        self._sum = start + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._values[self._start + bisect_left(self._bounds, value)] += 1.0
        self._values[self._sum] += value


def build_metric(family: Family, numbers: NDArray[np.float64]) -> Metric:
    """A family with its numbers. # [num_slots]"""
    if family.bounds:
        counts = numbers[:-1].cumsum().tolist()
        names = (*(f"{bound:g}" for bound in family.bounds), "+Inf")
        buckets = list(zip(names, counts, strict=True))
        return HistogramMetricFamily(family.name, family.text, buckets=buckets, sum_value=float(numbers[-1]))
    build = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = build(family.name, family.text, labels=family.labels)
    for labels, number in zip(family.values, numbers.tolist(), strict=True):
        metric.add_metric(labels, number)
    return metric
