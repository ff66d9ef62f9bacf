"""What the prefix cache costs when nothing hits, and what it gains when three quarters of a prompt do."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np

from penstock.bench.contestant import OWN_ENGINE, Contestant
from penstock.bench.report import Row

COST_STREAMS, COST_PROMPT, COST_OUTPUT = 16, 256, 32
GAIN_STREAMS, GAIN_PROMPT, GAIN_SHARED, GAIN_OUTPUT = 8, 2048, 1536, 128
KV_BYTES = 512 << 20
WARM_UP_PAIRS = 5  # until every KV block has been written once: new memory costs more than old
MUST_COST, MUST_GAIN = 1.0, 2.5


def measure_prefix_cache(weights: str, settings: Mapping[str, object], *, is_quick: bool) -> list[Row]:
    """Rows for the cost at 0 % hits (percent of throughput) and the gain at 75 % (times)."""
    settings = dict(settings) | {"kv_cache_memory": KV_BYTES}
    random = np.random.default_rng(7)
    with (
        Contestant("with cache", OWN_ENGINE, settings | {"enable_prefix_caching": True}) as with_cache,
        Contestant("without cache", OWN_ENGINE, settings | {"enable_prefix_caching": False}) as without,
    ):
        ratios = cost_ratios(with_cache, without, random, num_pairs=4 if is_quick else 24)
        gain = gain_ratio(with_cache, without, random)
    cost, spread = (1 - statistics.median(ratios)) * 100, (np.quantile(ratios, 0.75) - np.quantile(ratios, 0.25)) * 50
    cost_note = f"must <= {MUST_COST} %; median of {len(ratios)} pairs, quartiles +- {spread:.2f} %"
    gain_note = f"must >= {MUST_GAIN}; {GAIN_STREAMS} x ({GAIN_PROMPT} in, {GAIN_OUTPUT} out)"
    return [
        Row(name=f"prefix cache, 0 % hits, {weights}: cost", value=cost, unit="%", limit=MUST_COST, note=cost_note),
        Row(name=f"prefix cache, 75 % hits, {weights}: gain", value=gain, unit="x", limit=MUST_GAIN, note=gain_note),
    ]


def cost_ratios(
    with_cache: Contestant, without: Contestant, random: np.random.Generator, num_pairs: int
) -> list[float]:
    """Throughput with the cache over throughput without, pair by pair; who begins alternates."""
    ratios = []
    for pair in range(num_pairs + WARM_UP_PAIRS):
        prompts = random.integers(100, 32_000, (COST_STREAMS, COST_PROMPT)).tolist()
        order = [with_cache, without] if pair % 2 else [without, with_cache]
        seconds = {engine.name: engine.generate(prompts, COST_OUTPUT).seconds for engine in order}
        ratios.append(seconds[without.name] / seconds[with_cache.name])
    return ratios[WARM_UP_PAIRS:]


def gain_ratio(with_cache: Contestant, without: Contestant, random: np.random.Generator) -> float:
    """Throughput when the first three quarters of every prompt are cached, over throughput without a cache."""
    shared = random.integers(100, 32_000, GAIN_SHARED).tolist()
    fresh = random.integers(100, 32_000, (GAIN_STREAMS, GAIN_PROMPT - GAIN_SHARED)).tolist()
    prompts = [shared + rest for rest in fresh]
    with_cache.generate([shared], 1)
    hot, cold = with_cache.generate(prompts, GAIN_OUTPUT), without.generate(prompts, GAIN_OUTPUT)
    return cold.seconds / hot.seconds
