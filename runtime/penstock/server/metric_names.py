"""The metrics contract: every name, its labels, and what it counts. Units are seconds, tokens and shares of 1."""

from __future__ import annotations

from penstock import __version__
from penstock.server.metric_table import Family
from penstock.worker.components import COMPONENTS
from penstock.worker.phases import PHASES

ENDPOINTS = ("completions", "chat")
FINISH_REASONS = ("stop", "length", "abort", "error")
STATUSES = (200, 204, 400, 401, 404, 405, 409, 413, 500, 503)
OUTCOMES = tuple((endpoint, reason) for endpoint in ENDPOINTS for reason in FINISH_REASONS)

TTFT_BOUNDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
ITL_BOUNDS = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
E2E_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)
TOKEN_BOUNDS = tuple(float(1 << power) for power in range(0, 19, 2))


def build_families(model: str, role: str, block_size: int) -> tuple[Family, ...]:
    """The contract, for one model."""
    engine = (*engine_families(), *worker_families(), *total_families())
    return (*request_families(), *engine, *identity_families(model, role, block_size))


def request_families() -> tuple[Family, ...]:
    """What front-ends count themselves."""
    codes = (*((str(status),) for status in STATUSES), ("other",))
    counters = {
        "penstock_request_aborts_total": "Choices that were aborted because their client left",
        "penstock_prompt_tokens_total": "Prompt tokens of choices that were begun",
        "penstock_cached_prompt_tokens_total": "Prompt tokens that were found in the prefix cache",
        "penstock_generation_tokens_total": "Tokens generated for clients",
        "penstock_requests_resumed_total": "Answers that another pod began and this one went on with",
        "penstock_requests_moved_total": "Answers that this pod gave up at its end, for another to go on",
        "penstock_prefill_calls_total": "Prompts that peers had computed here",
        "penstock_internal_refused_total": "Internal calls without a good token, and bytes that are no HTTP",
    }
    return (
        Family(
            name="penstock_requests_total",
            kind="counter",
            text="Choices that ended, by endpoint and finish reason; abort: the client left",
            labels=("endpoint", "finish_reason"),
            values=OUTCOMES,
        ),
        Family(
            name="penstock_http_responses_total",
            kind="counter",
            text="HTTP answers by status code",
            labels=("code",),
            values=codes,
        ),
        *(Family(name=name, kind="counter", text=text) for name, text in counters.items()),
        *histogram_families(),
        Family(name="penstock_num_requests_in_flight", kind="gauge", text="Choices that front-ends have not ended"),
    )


def histogram_families() -> tuple[Family, ...]:
    """Latencies and sizes of choices, as front-ends see them."""
    first = "From the arrival of a request to the first token of a choice"
    histograms = {
        "penstock_time_to_first_token_seconds": (first, TTFT_BOUNDS),
        "penstock_inter_token_latency_seconds": ("Between two tokens of a choice", ITL_BOUNDS),
        "penstock_e2e_request_latency_seconds": ("From the arrival of a request to the end of a choice", E2E_BOUNDS),
        "penstock_request_prompt_tokens": ("Prompt tokens per choice", TOKEN_BOUNDS),
        "penstock_request_generation_tokens": ("Generated tokens per choice", TOKEN_BOUNDS),
    }
    return tuple(
        Family(name=name, kind="histogram", text=text, bounds=bounds) for name, (text, bounds) in histograms.items()
    )


def engine_families() -> tuple[Family, ...]:
    """Gauges of the engine; the names of the Gateway API inference extension repeat three of them."""
    running = "Requests in the running batch"
    waiting = "Requests that wait for the engine, those included that it has not been told yet"
    gauges = {
        "penstock_num_requests_running": running,
        "penstock_num_requests_waiting": waiting,
        "penstock_num_waiting_tokens": "Prompt tokens of waiting requests that the prefix cache does not hold",
        "penstock_kv_cache_usage_ratio": "Share of KV blocks held by requests, 0 to 1",
        "penstock_kv_cache_capacity_tokens": "Tokens that the KV cache can hold",
        "penstock_prefill_tokens_per_second": "Prompt tokens per second in steps with prompts, smoothed; 0: none yet",
        "penstock_kv_leases": "Leases on KV blocks that are held for peers",
        "penstock_engine_ready": "1 while the engine serves and new requests are taken",
        "vllm:num_requests_running": running,
        "vllm:num_requests_waiting": waiting,
        "vllm:kv_cache_usage_perc": "Share of KV blocks held by requests, 0 to 1",
    }
    return tuple(Family(name=name, kind="gauge", text=text, merge="own") for name, text in gauges.items())


def worker_families() -> tuple[Family, ...]:
    """What the worker learnt when it started last."""
    return (
        Family(
            name="penstock_startup_phase_seconds",
            kind="gauge",
            text="Seconds of each part of the worker's last start; 0: it has no such part",
            merge="own",
            labels=("phase",),
            values=tuple((phase,) for phase in PHASES),
        ),
        Family(
            name="penstock_gpu_memory_bytes",
            kind="gauge",
            text="Memory of the GPU by what holds or may take it, as of the worker's start; 0 without a GPU",
            merge="own",
            labels=("component",),
            values=tuple((component,) for component in COMPONENTS),
        ),
        Family(
            name="penstock_gpu_memory_headroom_bytes",
            kind="gauge",
            text="Memory of the GPU that is nobody's, as of the worker's start; 0 without a GPU",
            merge="own",
        ),
    )


def total_families() -> tuple[Family, ...]:
    """Totals of the engine over all its lives, which every front-end sees."""
    totals = {
        "penstock_preemptions_total": "Requests that lost their KV blocks to others and were computed again",
        "penstock_prefix_cache_query_tokens_total": "Prompt tokens looked up in the prefix cache",
        "penstock_prefix_cache_hit_tokens_total": "Prompt tokens found in the prefix cache",
        "penstock_engine_prompt_tokens_total": "Prompt tokens computed",
        "penstock_engine_output_tokens_total": "Tokens sampled",
        "penstock_engine_steps_total": "Steps made",
        "penstock_integrity_failures_total": "Checks of the block accounting that failed; anything but 0 is a defect",
        "penstock_kv_transfers_total": "Transfers of KV into this pod that ended well",
        "penstock_kv_transfer_bytes_total": "Bytes of KV that they brought",
        "penstock_kv_transfer_failures_total": "Transfers of KV into this pod that did not end well",
        "penstock_kv_transfer_fallbacks_total": "Requests prefilled here, wholly or in part, after a failed transfer",
        "penstock_engine_restarts_total": "Engine cores started after the first one",
    }
    return tuple(Family(name=name, kind="counter", text=text, merge="max") for name, text in totals.items())


def identity_families(model: str, role: str, block_size: int) -> tuple[Family, ...]:
    """Constant ones whose labels say what this is."""
    return (
        Family(
            name="penstock_build_info",
            kind="gauge",
            text="Always 1; what is running",
            merge="max",
            labels=("version", "model", "role"),
            values=((__version__, model, role),),
        ),
        cache_config(block_size, 0),
        Family(
            name="vllm:lora_requests_info",
            kind="gauge",
            text="Always 1; LoRA adapters in use: none as yet",
            merge="max",
            labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
            values=(("0", "", ""),),
        ),
    )


def cache_config(block_size: int, num_blocks: int) -> Family:
    """The shape of the KV cache; its size is known when the engine is ready."""
    return Family(
        name="vllm:cache_config_info",
        kind="gauge",
        text="Always 1; the shape of the KV cache",
        merge="max",
        labels=("block_size", "num_gpu_blocks"),
        values=((str(block_size), str(num_blocks)),),
    )
