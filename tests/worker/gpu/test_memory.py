"""Where the memory of a GPU goes: arithmetic over two readings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from penstock.errors import OutOfMemory
from penstock.worker.components import COMPONENTS
from penstock.worker.gpu.memory import (
    LIBRARY_BYTES,
    MemoryPlan,
    Probe,
    fixed_plan,
    graph_bytes,
    with_kv_cache,
    with_overhead,
)
from penstock.worker.kv_memory import KVLayout

LAYOUT = KVLayout(num_kv_heads=8, num_layers=32, block_size=16, head_dim=128, dtype=torch.bfloat16)  # 2 MiB
GIB, MIB = 1 << 30, 1 << 20
CARD = Probe(free=79 * GIB, total=80 * GIB)
NEEDS = {"weights": 16 * GIB, "workspace": GIB, "state_table": 64 * MIB, "graphs": 512 * MIB}


def config_of(
    *, utilization: float = 0.9, memory: int | None = None, length: int | None = None, rows: int = 256
) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(max_model_len=length),
        cache=CacheConfig(kv_cache_memory=memory, gpu_memory_utilization=utilization),
        scheduler=SchedulerConfig(max_num_seqs=rows),
    )


def planned(config: EngineConfig, needs: dict[str, int] = NEEDS, card: Probe = CARD, length: int = 8192) -> MemoryPlan:
    return with_kv_cache(fixed_plan(needs, card), LAYOUT, config, config.model.max_model_len or length)


def test_keys_and_values_get_what_utilization_leaves():
    plan = planned(config_of())
    fixed = GIB + sum(NEEDS.values()) + LIBRARY_BYTES
    assert plan.num_blocks == (int(72 * GIB) - fixed) // LAYOUT.block_bytes
    assert 72 * GIB - LAYOUT.block_bytes < plan.taken <= 72 * GIB
    assert plan.headroom == 80 * GIB - plan.taken


def test_utilization_counts_what_others_have_taken():
    crowded = planned(config_of(), card=Probe(free=49 * GIB, total=80 * GIB))
    assert planned(config_of()).num_blocks - crowded.num_blocks == 30 * GIB // LAYOUT.block_bytes


def test_memory_that_was_asked_for_is_given_whatever_the_utilization():
    plan = planned(config_of(memory=58 * GIB, utilization=0.3))
    assert plan.parts["kv_cache"] == 58 * GIB
    with pytest.raises(OutOfMemory, match=r"asks for 63,488 MiB, and .* left .*; use --kv-cache-memory 62\d\d\dMiB"):
        planned(config_of(memory=62 * GIB))


def test_no_more_than_all_rows_at_full_length_can_use():
    assert planned(config_of(rows=2, length=100)).num_blocks == 2 * 7 + 1


def test_one_request_of_the_length_that_was_asked_for_must_fit():
    with pytest.raises(OutOfMemory, match=r"a higher --gpu-memory-utilization than 0.3 or --max-model-len \d+$"):
        planned(config_of(utilization=0.3, length=1 << 17))
    with pytest.raises(OutOfMemory, match=r"use --kv-cache-memory 2\d\d\dMiB or --max-model-len 8176$"):
        planned(config_of(memory=GIB, length=1 << 14))


@pytest.mark.parametrize(
    ("needs", "card", "utilization", "remedy"),
    [
        (NEEDS, CARD, 0.2, "raise --gpu-memory-utilization 0.2"),
        (NEEDS, Probe(free=10 * GIB, total=80 * GIB), 0.9, "end what else runs on this GPU"),
        (NEEDS | {"weights": 90 * GIB}, CARD, 0.95, "take a smaller model or a larger GPU"),
        (NEEDS | {"workspace": 70 * GIB}, CARD, 0.95, "lower --max-num-batched-tokens and --max-num-seqs"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line_with_numbers_and_what_to_change_first(
    needs: dict[str, int], card: Probe, utilization: float, remedy: str
):
    pattern = rf"^too little GPU memory: [\d,]+ MiB are needed without a KV cache \(.*\) and [\d,]+ of .*; {remedy}$"
    with pytest.raises(OutOfMemory, match=pattern) as caught:
        planned(config_of(utilization=utilization), needs, card)
    assert "\n" not in str(caught.value)


def test_what_was_taken_beyond_the_count_is_counted_too():
    plan = fixed_plan(NEEDS, CARD)
    counted = NEEDS["weights"] + NEEDS["workspace"] + NEEDS["state_table"]  # graphs come later
    assert with_overhead(plan, counted).taken == plan.taken
    assert with_overhead(plan, counted - GIB).taken == plan.taken
    assert with_overhead(plan, counted + 300 * MIB).taken == plan.taken + 300 * MIB


def test_the_log_has_every_part_in_order():
    fields = planned(config_of()).to_fields()
    parts = [*fixed_plan(NEEDS, CARD).parts, "kv_cache"]
    assert list(fields) == [*[name for name in COMPONENTS if name in parts], "headroom"]
    assert fields["weights"] == "16,384MiB"


@given(
    st.integers(0, 40 * GIB),
    st.integers(1, 60 * GIB),
    st.integers(0, 20 * GIB),
    st.floats(0.05, 0.95),
    st.one_of(st.none(), st.integers(1, 90 * GIB)),
)
def test_never_more_than_there_is(others: int, weights: int, extra: int, utilization: float, memory: int | None):
    card = Probe(free=80 * GIB - others, total=80 * GIB)
    plan = with_overhead(fixed_plan(NEEDS | {"weights": weights}, card), weights + extra)
    try:
        plan = with_kv_cache(plan, LAYOUT, config_of(utilization=utilization, memory=memory), 8192)
    except OutOfMemory:
        return
    assert plan.taken <= (80 * GIB if memory else int(80 * GIB * utilization))
    assert plan.num_blocks >= 2
    assert plan.parts["kv_cache"] == plan.num_blocks * LAYOUT.block_bytes


def test_graphs_grow_with_layers_and_their_number():
    assert graph_bytes(32, 40) == 40 * graph_bytes(32, 1) > 300 * MIB
