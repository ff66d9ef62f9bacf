"""What every handler needs: the engine, the settings, the counters, and the names that answers carry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock import __version__
from penstock.config import ServerConfig
from penstock.engine.async_llm import AsyncLLM
from penstock.errors import ModelUnknown
from penstock.internal.credentials import ClusterKeys
from penstock.server.auth import ApiKeys
from penstock.server.internal.leases import Leases
from penstock.server.internal.routed_exchange import RoutedExchange
from penstock.server.metrics import Metrics

T = TypeVar("T")

INLINE_SIZE = 2_000  # characters or ids that are worked through in about a millisecond
NUM_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One front-end's state, made once and shared by all requests."""

    llm: AsyncLLM
    config: ServerConfig
    keys: ApiKeys
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    created: int = field(default_factory=lambda: int(time.time()))
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="prompts")
    )
    fingerprint: str = ""  # of the system, as clients see it
    cluster: ClusterKeys  # of the service that this pod belongs to
    leases: Leases
    routed: set[RoutedExchange] = field(default_factory=set)  # answers that could go on at another pod

    @classmethod
    def build(
        cls,
        llm: AsyncLLM,
        config: ServerConfig,
        api_keys: tuple[str, ...],
        *,
        metrics: Metrics | None = None,
        run_path: Path | None = None,
    ) -> Serving:
        """For one engine. `metrics` are given where several front-ends share theirs; without a run folder nobody can
        renew a lease. Raises `ConfigError` for a cluster key that cannot be used."""
        if metrics is None:
            metrics = Metrics(
                model=model_name(llm), role=llm.config.transfer.role, block_size=llm.config.cache.block_size
            )
        llm.on_stats = lambda: metrics.take_totals(llm)
        digest = blake2b(msgspec.json.encode((llm.config.model, llm.config.compute)), digest_size=6).hexdigest()
        return cls(
            llm=llm,
            config=config,
            keys=ApiKeys(api_keys),
            metrics=metrics,
            fingerprint=f"penstock-{__version__}-{digest}",
            cluster=ClusterKeys(None if config.cluster_key_file is None else Path(config.cluster_key_file)),
            leases=Leases(run_path),
        )

    @property
    def model(self) -> str:
        """The name that clients use."""
        return model_name(self.llm)

    def check_model(self, name: str | None) -> None:
        """Raise `ModelUnknown` for a name that is not served; none at all means ours."""
        if name is not None and name != self.model:
            raise ModelUnknown(f"the model {name[:100]!r} is not served here; {self.model!r} is", "model")

    async def run(self, work: Callable[[], T], size: int) -> T:
        """Do `work` on a text or ids of that size: at once if it is small, else on a thread."""
        if size <= INLINE_SIZE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)


def model_name(llm: AsyncLLM) -> str:
    """The name under which a model is served."""
    return llm.config.model.served_model_name or llm.config.model.model
