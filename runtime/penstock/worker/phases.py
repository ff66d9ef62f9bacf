"""How long each part of a worker's start takes, for its log and the metrics. No torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock.logs import event

PHASES = ("imports", "device", "weights", "memory", "compile", "warm_up", "graphs")  # in order; a CPU has fewer

_log = logging.getLogger(__name__)


class Phases:
    """The seconds of every part that has ended."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count what runs inside as that part."""
        assert phase in PHASES, f"{phase} is no part of a start"
        begin = self._clock()
        yield
        self.seconds[phase] = self._clock() - begin

    def tell(self) -> None:
        """One log event with all parts. For a start that went well: one that did not says why, and nothing else."""
        fields: dict[str, Any] = {**self.seconds}
        event(_log, "start.phases", **fields)
