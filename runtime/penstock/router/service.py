"""What every request through a router worker needs; made once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from penstock.errors import RequestError
from penstock.router.answers import Answers
from penstock.router.config import RouterConfig
from penstock.router.door import Door
from penstock.router.endpoints import EndpointTable
from penstock.router.metrics import Metrics
from penstock.router.siblings import Siblings
from penstock.router.tenants import Tenants
from penstock.router.upstream import Upstream
from penstock.router.watch import Watch


class Running(Protocol):
    """A request that can be ended from outside."""

    def cut(self, error: RequestError) -> None:
        """End it with an error."""


@dataclass(slots=True, kw_only=True)
class Service:
    """One worker's state. What changes is below the line."""

    config: RouterConfig
    version: str  # of Penstock
    table: EndpointTable
    watch: Watch
    door: Door
    tenants: Tenants
    metrics: Metrics
    upstream: Upstream
    answers: Answers
    siblings: Siblings
    clock: Callable[[], float] = time.monotonic
    created: int = field(default_factory=lambda: int(time.time()))
    # ----
    is_draining: bool = False  # SIGTERM came
    is_closed: bool = False  # … and nothing new is taken any more
    body_bytes: int = 0  # of requests that are not answered to their end
    num_in_flight: int = 0  # requests that are not answered to their end
    last_arrival: float = 0.0  # seconds
    running: set[Running] = field(default_factory=set)

    @property
    def max_body_memory(self) -> int:
        """Bytes that the bodies of this worker's requests may take; one body always fits."""
        share = self.config.admission.max_body_memory // self.config.listener.workers
        return max(share, self.config.listener.max_body_bytes)

    def count_in_flight(self, change: int) -> None:
        """A request began (1) or ended (-1)."""
        self.num_in_flight += change
        self.metrics.count_in_flight(change)
        if change > 0:
            self.last_arrival = self.clock()

    def count_body(self, change: int) -> None:
        """A body is kept, or not any more."""
        self.body_bytes += change
        self.metrics.count_body(change)

    def cut_all(self, error: RequestError) -> None:
        """End everything that runs."""
        for one in list(self.running):
            one.cut(error)
