"""Counts what this front-end does, and shows Prometheus what all front-ends have done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from penstock.engine.async_llm import AsyncLLM
from penstock.engine.messages import SchedulerStats
from penstock.server.metric_names import OUTCOMES, STATUSES, build_families, cache_config
from penstock.server.metric_table import MetricTable

# Running totals of SchedulerStats, which start at 0 with each engine life: field -> metric.
ENGINE_TOTALS = {
    "num_preemptions": "penstock_preemptions_total",
    "num_prefix_queries": "penstock_prefix_cache_query_tokens_total",
    "num_prefix_hits": "penstock_prefix_cache_hit_tokens_total",
    "num_prompt_tokens": "penstock_engine_prompt_tokens_total",
    "num_output_tokens": "penstock_engine_output_tokens_total",
    "num_steps": "penstock_engine_steps_total",
    "integrity_failures": "penstock_integrity_failures_total",
    "num_pulls": "penstock_kv_transfers_total",
    "num_pulled_bytes": "penstock_kv_transfer_bytes_total",
    "num_failed_pulls": "penstock_kv_transfer_failures_total",
    "num_fallbacks": "penstock_kv_transfer_fallbacks_total",
}


class Metrics(Collector):
    """One per front-end process. `folder` is shared by the front-ends of a pod; without one this is the only one."""

    def __init__(
        self,
        *,
        model: str,
        role: str = "both",
        block_size: int,
        folder: Path | None = None,
        slot: int = 0,
    ) -> None:
        table = MetricTable(build_families(model, role, block_size), folder=folder, slot=slot)
        self._table, self._values = table, table.values
        self._ttft = table.histogram("penstock_time_to_first_token_seconds")
        self._itl = table.histogram("penstock_inter_token_latency_seconds")
        self._e2e = table.histogram("penstock_e2e_request_latency_seconds")
        self._prompt_size = table.histogram("penstock_request_prompt_tokens")
        self._generation_size = table.histogram("penstock_request_generation_tokens")
        self._outcomes = {outcome: table.slot("penstock_requests_total", *outcome) for outcome in OUTCOMES}
        self._statuses = {status: table.slot("penstock_http_responses_total", str(status)) for status in STATUSES}
        self._other_status = table.slot("penstock_http_responses_total", "other")
        self._prompt_tokens = table.slot("penstock_prompt_tokens_total")
        self._cached_tokens = table.slot("penstock_cached_prompt_tokens_total")
        self._generation_tokens = table.slot("penstock_generation_tokens_total")
        self._aborts = table.slot("penstock_request_aborts_total")
        self._in_flight = table.slot("penstock_num_requests_in_flight")
        self._seen = SchedulerStats()  # the totals that are counted already
        self._slots = table.first_slots
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for name in ("penstock_build_info", "vllm:cache_config_info", "vllm:lora_requests_info"):
            self._set(name, 1.0)

    # -- counting

    def count_response(self, status: int) -> None:
        """An HTTP answer has begun."""
        self._values[self._statuses.get(status, self._other_status)] += 1.0

    def count_begin(self, count: int) -> None:
        """Choices were handed to the engine."""
        self._values[self._in_flight] += count

    def count_first_token(self, seconds: float, *, num_prompt: int, num_cached: int) -> None:
        """A choice has its first token, `seconds` after its request arrived."""
        self._ttft.observe(seconds)
        self._prompt_size.observe(num_prompt)
        self._values[self._prompt_tokens] += num_prompt
        self._values[self._cached_tokens] += num_cached

    def count_next_token(self, seconds: float) -> None:
        """A choice has another token, `seconds` after the one before."""
        self._itl.observe(seconds)

    def count_tokens(self, count: int) -> None:
        """Tokens were generated."""
        self._values[self._generation_tokens] += count

    def count_end(self, endpoint: str, reason: str, *, seconds: float, num_outputs: int) -> None:
        """A choice ended by itself, `seconds` after its request arrived."""
        self._e2e.observe(seconds)
        self._generation_size.observe(num_outputs)
        self._values[self._outcomes[endpoint, reason]] += 1.0
        self._values[self._in_flight] -= 1.0

    def count_aborts(self, endpoint: str, count: int) -> None:
        """Choices ended because their client left."""
        self._values[self._aborts] += count
        self._values[self._outcomes[endpoint, "abort"]] += count
        self._values[self._in_flight] -= count

    def count_resumption(self) -> None:
        """An answer goes on here that another pod began."""
        self._add("penstock_requests_resumed_total")

    def count_move(self) -> None:
        """An answer was given up for another pod to go on."""
        self._add("penstock_requests_moved_total")

    def count_prefill_call(self) -> None:
        """A peer has a prompt computed here."""
        self._add("penstock_prefill_calls_total")

    def count_refusal(self) -> None:
        """Somebody on the internal port has no business there."""
        self._add("penstock_internal_refused_total")

    def _add(self, name: str) -> None:
        self._values[self._slots[name]] += 1.0

    def _set(self, name: str, value: float) -> None:
        self._values[self._slots[name]] = float(value)

    def _set_each(self, name: str, values: Mapping[str, float]) -> None:
        for label, value in values.items():
            self._values[self._table.slot(name, label)] = float(value)

    # -- the page

    def page(self, llm: AsyncLLM) -> bytes:
        """Everything in Prometheus' text format, for all front-ends."""
        self.take_totals(llm)
        self._take_gauges(llm)
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry prints: the numbers of all front-ends, merged."""
        return self._table.build_families(self._merged())

    def totals(self, llm: AsyncLLM) -> Mapping[str, float]:
        """The first (often only) number of every metric by name, for the whole pod."""
        self.take_totals(llm)
        self._take_gauges(llm)
        merged = self._merged().tolist()
        return {name: merged[place] for name, place in self._slots.items()}

    def _merged(self) -> NDArray[np.float64]:
        merged = self._table.merged()
        in_flight = merged[self._slots["penstock_num_requests_in_flight"]]
        running = merged[self._slots["penstock_num_requests_running"]]
        for name in ("penstock_num_requests_waiting", "vllm:num_requests_waiting"):
            place = self._slots[name]
            merged[place] = max(merged[place], in_flight - running)  # the engine may not know of the newest yet
        return merged

    def take_totals(self, llm: AsyncLLM) -> None:
        """Count what the engine has done since the last call; its totals begin again at 0 in each of its lives."""
        stats = llm.stats
        if stats is self._seen:
            return
        before = SchedulerStats() if stats.num_steps < self._seen.num_steps else self._seen
        for field, name in ENGINE_TOTALS.items():
            self._values[self._slots[name]] += max(0, getattr(stats, field) - getattr(before, field))
        self._seen = stats

    def _take_gauges(self, llm: AsyncLLM) -> None:
        stats = llm.stats
        for prefix in ("penstock_", "vllm:"):
            self._set(f"{prefix}num_requests_running", stats.num_running)
            self._set(f"{prefix}num_requests_waiting", stats.num_waiting)
        self._set("penstock_kv_cache_usage_ratio", stats.kv_usage)
        self._set("vllm:kv_cache_usage_perc", stats.kv_usage)
        self._set("penstock_num_waiting_tokens", stats.num_waiting_tokens)
        self._set("penstock_prefill_tokens_per_second", stats.prefill_rate)
        self._set("penstock_kv_leases", stats.num_leases)
        self._set("penstock_engine_ready", llm.is_ready)
        self._set("penstock_engine_restarts_total", max(0, llm.epoch - 1))
        if llm.engine is not None:
            engine = llm.engine
            self._set("penstock_kv_cache_capacity_tokens", engine.num_blocks * engine.block_size)
            self._table.relabel(cache_config(engine.block_size, engine.num_blocks))
            self._set_each("penstock_startup_phase_seconds", engine.startup_seconds)
            self._set_each("penstock_gpu_memory_bytes", engine.memory_bytes)
            self._set("penstock_gpu_memory_headroom_bytes", engine.headroom_bytes)
