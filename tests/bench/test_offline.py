"""How `penstock bench offline` turns answers into figures, with an engine whose speed is known."""

from __future__ import annotations

import pytest

from penstock.bench.ceiling import Ceiling, ModelCost
from penstock.bench.contestant import Contestant
from penstock.bench.offline import Own, check_rows, measure, memory_rows, speed_rows

CLOCKWORK = """
import time

def load(options):
    def generate(prompts, num_outputs):
        time.sleep(options["prompt"] + (num_outputs - 1) * options["token"])
        return [[7] * num_outputs for _ in prompts]
    def regrets(sequences, num_prompt):
        return [[options["regret"]] * (len(sequence) - num_prompt) for sequence in sequences]
    return {"generate": generate, "regrets": regrets}
"""
COST = ModelCost(weight_bytes=1_000_000, layer_weights=1000, head_weights=100, kv_bytes=10, attention_width=8)
CEILING = Ceiling(read_bandwidth=1e9, matmul={"bf16": 1e12, "int8": 1e12})


@pytest.fixture
def clockwork(tmp_path):
    file = tmp_path / "clockwork.py"
    file.write_text(CLOCKWORK)

    def start(name: str, token: float, regret: float = 0.0) -> Contestant:
        return Contestant(name, file, {"prompt": 0.05, "token": token, "regret": regret})

    return start


def test_figures_are_rates_of_decode_and_prefill_beside_limit_and_peer(clockwork):
    with clockwork("penstock bf16", 0.001) as ours, clockwork("vllm", 0.002) as theirs:
        table = {1: measure([ours, theirs], 1, 1), 8: measure([ours, theirs], 8, 1)}
        own = Own(weights="bf16", engine=ours, kernels="fast", cost=COST, kv_bytes=1000)
        rows = {row.name: row for row in speed_rows([own], [theirs], CEILING, {8: table[8]})}
        memory = memory_rows([own])[0]
    assert table[1]["penstock bf16"].decode == pytest.approx(1000, rel=0.3)
    assert table[8]["vllm"].decode == pytest.approx(8 * 500, rel=0.3)
    assert rows["prefill, bf16, 8 x 128"].value == pytest.approx(8 * 128 / 0.05, rel=0.3)
    assert rows["  vs vllm"].ratio == pytest.approx(1.0, rel=0.3)  # the last one of that name: prefill
    assert rows["decode, bf16, 8 streams"].limit == pytest.approx(8 / ((1e6 + 8 * 160 * 10) / 1e9))
    assert memory.limit == pytest.approx(601.001)
    assert 0 < memory.ratio < 1


@pytest.mark.parametrize(("regret", "verdict"), [(0.0, "ok"), (0.5, "WRONG")])
def test_tokens_that_are_not_the_models_best_are_called_wrong(clockwork, regret, verdict):
    with clockwork("judge", 0.0, regret) as judge:
        row = check_rows(judge, measure([judge], 1, 1))[0]
    assert row.note.startswith(verdict)
    assert row.value == regret
