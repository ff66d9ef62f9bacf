"""Limits computed from what a machine can do and a model needs."""

from __future__ import annotations

import pytest

from penstock.bench.ceiling import Ceiling, ModelCost, best_of, measure_ceiling, weight_bytes_of
from penstock.models.spec import ModelSpec
from support.embedded import embedded_folder

COST = ModelCost(weight_bytes=1000, layer_weights=400, head_weights=100, kv_bytes=10, attention_width=8)


def machine(bandwidth: float = 1e6, bf16: float = 1e12) -> Ceiling:
    return Ceiling(read_bandwidth=bandwidth, matmul={"bf16": bf16, "int8": 2 * bf16})


def test_one_stream_is_bound_by_reading_weights_and_context():
    assert machine().decode(COST, 1, 100.0, "bf16") == pytest.approx(1e6 / (1000 + 100 * 10))


def test_many_streams_share_the_weights_until_arithmetic_binds():
    assert machine().decode(COST, 10, 0.0, "bf16") == pytest.approx(10 * machine().decode(COST, 1, 0.0, "bf16"))
    bound = machine(bandwidth=1e30, bf16=1e6).decode(COST, 64, 0.0, "bf16")
    assert bound == pytest.approx(1e6 / (2 * 500))


def test_a_prompt_needs_its_head_once_and_attends_to_half_of_itself():
    rate = machine(bf16=1e6).prefill(COST, 10, "bf16")
    assert rate == pytest.approx(10 * 1e6 / (2 * 10 * 400 + 2 * 100 + 2 * 10 * 10 * 8))


def test_of_two_measurements_the_higher_figures_count():
    both = best_of(machine(bandwidth=1.0, bf16=2.0), machine(bandwidth=2.0, bf16=1.0))
    assert (both.read_bandwidth, both.matmul["bf16"]) == (2.0, 2.0)


def test_the_embedded_model_costs_what_it_has():
    folder = embedded_folder()
    cost = ModelCost.of(ModelSpec.from_folder(folder), weight_bytes_of(folder, None))
    assert cost.layer_weights + cost.head_weights == pytest.approx(134.5e6, rel=0.01)  # 135M with the norms
    assert cost.kv_bytes == 30 * 2 * 3 * 64 * 2
    assert cost.weight_bytes == pytest.approx(99e6, rel=0.05)


def test_a_machine_can_be_measured():
    ceiling = measure_ceiling(1)
    assert ceiling.read_bandwidth > 1e8
    assert all(rate > 1e8 for rate in ceiling.matmul.values())
