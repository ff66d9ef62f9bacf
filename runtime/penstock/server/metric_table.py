"""Metrics as one row of float64 per front-end process, in a file that all front-ends of a pod can read.

Every series is known at the start, so that counting is one addition in shared memory, and a page is the rows of all
front-ends merged and printed: whichever of them answers, it tells the truth for all.
"""

from __future__ import annotations

import itertools
import mmap
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    """The row of this front-end, and the page of all. Without a folder there is no other front-end."""

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
        self._lines = [line for family in families for line in build_lines(family)]
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
            self._lines = [line for each in self._families for line in build_lines(each)]

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

    def page(self, merged: NDArray[np.float64]) -> bytes:
        """A merged row in Prometheus' text format."""
        numbers: list[float] = []
        for family in self._families:
            start = self._starts[family.name]
            own = merged[start : start + family.num_slots]
            if family.bounds:
                counts = own[:-1].cumsum().tolist()
                numbers += [*counts, counts[-1], float(own[-1])]
            else:
                numbers += own.tolist()
        return "".join(map(format_line, self._lines, numbers)).encode()


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


def build_lines(family: Family) -> list[str]:
    """The text before each number of a family; HELP and TYPE stand before the first one."""
    if family.bounds:
        names = [f'{family.name}_bucket{{le="{bound:g}"}}' for bound in family.bounds]
        names += [f'{family.name}_bucket{{le="+Inf"}}', f"{family.name}_count", f"{family.name}_sum"]
    else:
        names = [family.name + label_text(family.labels, values) for values in family.values]
    names[0] = f"# HELP {family.name} {family.text}\n# TYPE {family.name} {family.kind}\n{names[0]}"
    return names


def label_text(labels: Sequence[str], values: Sequence[str]) -> str:
    """`{name="value",…}`, or nothing."""
    pairs = [f'{label}="{escape(value)}"' for label, value in zip(labels, values, strict=True)]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def escape(value: str) -> str:
    """A label value for the text format."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def format_line(line: str, number: float) -> str:
    """One sample."""
    return f"{line} {int(number)}\n" if number.is_integer() else f"{line} {number!r}\n"
