from __future__ import annotations

import time

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.engine.messages import SchedulerStats
from penstock.server.metrics import Metrics

# The contract: whoever renames or removes one of these breaks somebody's dashboard.
CONTRACT = {
    "penstock_requests": ("counter", ("endpoint", "finish_reason")),
    "penstock_http_responses": ("counter", ("code",)),
    "penstock_request_aborts": ("counter", ()),
    "penstock_prompt_tokens": ("counter", ()),
    "penstock_cached_prompt_tokens": ("counter", ()),
    "penstock_generation_tokens": ("counter", ()),
    "penstock_time_to_first_token_seconds": ("histogram", ()),
    "penstock_inter_token_latency_seconds": ("histogram", ()),
    "penstock_e2e_request_latency_seconds": ("histogram", ()),
    "penstock_request_prompt_tokens": ("histogram", ()),
    "penstock_request_generation_tokens": ("histogram", ()),
    "penstock_num_requests_in_flight": ("gauge", ()),
    "penstock_num_requests_running": ("gauge", ()),
    "penstock_num_requests_waiting": ("gauge", ()),
    "penstock_num_waiting_tokens": ("gauge", ()),
    "penstock_kv_cache_usage_ratio": ("gauge", ()),
    "penstock_kv_cache_capacity_tokens": ("gauge", ()),
    "penstock_engine_ready": ("gauge", ()),
    "penstock_startup_phase_seconds": ("gauge", ("phase",)),
    "penstock_gpu_memory_bytes": ("gauge", ("component",)),
    "penstock_gpu_memory_headroom_bytes": ("gauge", ()),
    "penstock_preemptions": ("counter", ()),
    "penstock_prefix_cache_query_tokens": ("counter", ()),
    "penstock_prefix_cache_hit_tokens": ("counter", ()),
    "penstock_engine_prompt_tokens": ("counter", ()),
    "penstock_engine_output_tokens": ("counter", ()),
    "penstock_engine_steps": ("counter", ()),
    "penstock_integrity_failures": ("counter", ()),
    "penstock_engine_restarts": ("counter", ()),
    "penstock_requests_resumed": ("counter", ()),
    "penstock_requests_moved": ("counter", ()),
    "penstock_prefill_calls": ("counter", ()),
    "penstock_internal_refused": ("counter", ()),
    "penstock_prefill_tokens_per_second": ("gauge", ()),
    "penstock_kv_leases": ("gauge", ()),
    "penstock_kv_transfers": ("counter", ()),
    "penstock_kv_transfer_bytes": ("counter", ()),
    "penstock_kv_transfer_failures": ("counter", ()),
    "penstock_kv_transfer_fallbacks": ("counter", ()),
    "penstock_build_info": ("gauge", ("version", "model", "role")),
    "vllm:num_requests_running": ("gauge", ()),
    "vllm:num_requests_waiting": ("gauge", ()),
    "vllm:kv_cache_usage_perc": ("gauge", ()),
    "vllm:cache_config_info": ("gauge", ("block_size", "num_gpu_blocks")),
    "vllm:lora_requests_info": ("gauge", ("max_lora", "running_lora_adapters", "waiting_lora_adapters")),
}


def numbers_of(page: bytes) -> dict[str, float]:
    """The samples of a page: name with labels, as printed -> number."""
    lines = [line for line in page.decode().splitlines() if not line.startswith("#")]
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}


async def families_of(site) -> dict:
    reply = await site.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(reply.text)}


async def test_the_names_types_and_labels_are_the_contract(site):
    families = await families_of(site)
    seen = {}
    for name, family in families.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        seen[name] = (family.type, labels)
        assert family.documentation
    assert seen == {name: (kind, set(labels)) for name, (kind, labels) in CONTRACT.items()}


async def test_every_request_is_counted_once(site):
    site.engine.num_cached = 2
    usage = (await site.complete("one two three", n=2, max_tokens=5))["usage"]
    await site.chat("hi", max_tokens=2, stream=False)
    await site.post("/v1/completions", prompt="")
    assert await site.metric('penstock_requests_total{endpoint="completions",finish_reason="length"}') == 2
    assert await site.metric('penstock_requests_total{endpoint="chat",finish_reason="length"}') == 1
    assert await site.metric("penstock_generation_tokens_total") == usage["completion_tokens"] + 2
    assert await site.metric("penstock_cached_prompt_tokens_total") == 6
    assert await site.metric('penstock_http_responses_total{code="400"}') == 1
    assert await site.metric('penstock_http_responses_total{code="200"}') >= 2
    assert await site.metric("penstock_time_to_first_token_seconds_count") == 3
    assert await site.metric("penstock_inter_token_latency_seconds_count") == 2 * 4 + 1
    assert await site.metric("penstock_e2e_request_latency_seconds_count") == 3
    assert await site.metric("penstock_request_generation_tokens_sum") == 12
    assert await site.metric("penstock_num_requests_in_flight") == 0


async def test_histograms_are_cumulative_and_bounds_are_inclusive(site):
    site.llm.input.max_model_len = 4_096
    await site.complete([5] * 16, max_tokens=16)
    family = (await families_of(site))["penstock_request_prompt_tokens"]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert buckets["4"] == 0
    assert buckets["16"] == 1
    assert buckets["+Inf"] == 1


async def test_the_engine_shows_its_size_and_readiness(site):
    families = await families_of(site)
    assert families["vllm:cache_config_info"].samples[0].labels == {"block_size": "16", "num_gpu_blocks": "101"}
    assert await site.metric("penstock_kv_cache_capacity_tokens") == 1_616
    assert await site.metric("penstock_engine_ready") == 1
    site.llm.drain()
    assert await site.metric("penstock_engine_ready") == 0


async def test_the_workers_start_and_memory_are_shown(site):
    assert await site.metric("penstock_gpu_memory_headroom_bytes") == 0
    site.llm.engine = msgspec.structs.replace(
        site.llm.engine,
        startup_seconds={"weights": 2.5, "graphs": 0.5},
        memory_bytes={"weights": 1 << 30, "kv_cache": 3 << 30},
        headroom_bytes=5 << 30,
    )
    assert await site.metric('penstock_startup_phase_seconds{phase="weights"}') == 2.5
    assert await site.metric('penstock_startup_phase_seconds{phase="imports"}') == 0
    assert await site.metric('penstock_gpu_memory_bytes{component="kv_cache"}') == 3 << 30
    assert await site.metric("penstock_gpu_memory_headroom_bytes") == 5 << 30


async def test_totals_of_the_engine_survive_its_restart(site):
    metrics = Metrics(model="m", block_size=16)
    for steps, tokens in ((10, 100), (30, 300), (0, 0), (5, 50), (6, 60)):  # it died after 30 steps
        site.llm.stats = SchedulerStats(num_steps=steps, num_output_tokens=tokens)
        numbers = numbers_of(metrics.page(site.llm))
    assert numbers["penstock_engine_steps_total"] == 36
    assert numbers["penstock_engine_output_tokens_total"] == 360


async def test_any_front_end_tells_of_all_of_them(site, tmp_path):
    fronts = [Metrics(model="m", block_size=16, folder=tmp_path, slot=slot) for slot in range(3)]
    site.llm.stats = SchedulerStats(num_running=4, num_steps=8)
    for front in fronts:
        front.count_begin(5)
        front.count_response(200)
        front.count_first_token(0.01, num_prompt=7, num_cached=0)
        front.take_totals(site.llm)
    for front in fronts:
        numbers = numbers_of(front.page(site.llm))
        assert numbers['penstock_http_responses_total{code="200"}'] == 3
        assert numbers["penstock_prompt_tokens_total"] == 21
        assert numbers["penstock_num_requests_in_flight"] == 15
        assert numbers["penstock_num_requests_running"] == 4  # every front-end sees the same engine
        assert numbers["penstock_num_requests_waiting"] == 11
        assert numbers["penstock_engine_steps_total"] == 8


async def test_a_front_end_that_takes_the_place_of_a_dead_one_goes_on_counting(site, tmp_path):
    dead = Metrics(model="m", block_size=16, folder=tmp_path, slot=0)
    dead.count_begin(5)
    dead.count_response(200)
    other = Metrics(model="m", block_size=16, folder=tmp_path, slot=1)
    Metrics(model="m", block_size=16, folder=tmp_path, slot=0)
    numbers = numbers_of(other.page(site.llm))
    assert numbers['penstock_http_responses_total{code="200"}'] == 1
    assert numbers["penstock_num_requests_in_flight"] == 0


async def test_a_page_takes_about_a_millisecond(site, tmp_path):
    fronts = [Metrics(model="m", block_size=16, folder=tmp_path, slot=slot) for slot in range(4)]
    took = []
    for _ in range(50):
        began = time.perf_counter()
        fronts[0].page(site.llm)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.002


@pytest.mark.parametrize("model", ['a"b', "back\\slash", "two\nlines"])
async def test_names_of_models_cannot_break_the_page(site, model):
    page = Metrics(model=model, block_size=16).page(site.llm).decode()
    (family,) = [f for f in text_string_to_metric_families(page) if f.name == "penstock_build_info"]
    assert family.samples[0].labels["model"] == model
