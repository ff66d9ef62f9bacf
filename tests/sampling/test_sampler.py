"""The sampler against plain definitions: greedy, drawn and filtered rows, each independent of its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.core.plan import Ints
from penstock.sampling.params import SamplingParams
from penstock.sampling.sampler import sample
from penstock.worker.cpu.state_table import StateTable
from support.rows import admit, new_row, table_of

VOCAB = 1000


def rows_of(count: int) -> Ints:
    return np.arange(count, dtype=np.int32)


def logits_of(count: int, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def tokens(table: StateTable, logits: torch.Tensor, rows: Ints) -> list[int]:
    return sample(table, logits.clone(), rows, 0).token_ids.tolist()


def mixed_params() -> list[SamplingParams]:
    """One of everything."""
    return [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, seed=7),
        SamplingParams(temperature=0.7, seed=7, top_p=0.9),
        SamplingParams(temperature=1.3, seed=8, top_k=5),
        SamplingParams(temperature=1.0, seed=9, min_p=0.02),
        SamplingParams(temperature=2.0, seed=10, top_k=300, top_p=0.99, min_p=0.0001),
        SamplingParams(temperature=4.0, seed=11, top_p=0.999),  # so flat that the candidates are too few
        SamplingParams(temperature=1.0, seed=12, presence_penalty=1.0, frequency_penalty=0.5, repetition_penalty=1.2),
        SamplingParams(temperature=0.0, logit_bias={4: 3.0, 9: -100.0}),
    ]


def test_greedy_takes_the_largest_logit_and_the_lowest_id_among_equals():
    logits = torch.zeros(2, VOCAB)
    logits[0, [70, 300, 999]] = 2.0
    logits[1, 5] = 0.5
    assert tokens(table_of(*[SamplingParams(temperature=0.0)] * 2), logits, rows_of(2)) == [70, 5]


def test_a_row_draws_the_same_token_alone_and_in_any_batch():
    params = mixed_params()
    table, logits = table_of(*params), logits_of(len(params), vocab=49152)
    together = tokens(table, logits, rows_of(len(params)))
    alone = [tokens(table, logits[i : i + 1], np.array([i], dtype=np.int32))[0] for i in range(len(params))]
    order = np.random.default_rng(0).permutation(len(params)).astype(np.int32)
    shuffled = tokens(table, logits[torch.from_numpy(order).long()], order)
    assert together == alone
    assert [together[i] for i in order] == shuffled


def test_a_row_draws_the_same_token_with_any_number_of_torch_threads():
    params = [SamplingParams(temperature=1.0, seed=seed) for seed in range(20)]
    table, logits = table_of(*params), logits_of(20, vocab=49152)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with_two = tokens(table, logits, rows_of(20))
    finally:
        torch.set_num_threads(before)
    alone = [tokens(table, logits[i : i + 1], np.array([i], dtype=np.int32))[0] for i in range(20)]
    assert with_two == alone


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    params = [SamplingParams(temperature=1.0, seed=seed) for seed in (5, 5, 6, -5, 2**64 - 5)]
    table = table_of(*params)
    drawn = []
    for step in range(12):
        logits = logits_of(1, seed=step).expand(5, -1).contiguous()
        drawn.append(tokens(table, logits, rows_of(5)))
        table.append(rows_of(5), np.array(drawn[-1], dtype=np.int32))
    first, same, other, negative, wrapped = zip(*drawn, strict=True)
    assert first == same
    assert first != other
    assert negative == wrapped  # the low 64 bits count


def test_a_row_told_again_with_its_outputs_goes_on_as_before():
    sampling = SamplingParams(temperature=1.0, seed=3, top_p=0.95, frequency_penalty=0.3)
    table = table_of(sampling)
    row = rows_of(1)
    for step in range(10):
        table.append(row, np.array(tokens(table, logits_of(1, seed=step), row), dtype=np.int32))
    known = table.token_ids[0, 3:13].tolist()
    again = table_of(SamplingParams(), sampling)  # another row, other neighbours
    admit(again, new_row(1, sampling, (1, 2, 3), known[:4]))
    row = np.array([1], dtype=np.int32)
    for step in range(4, 10):
        again.append(row, np.array(tokens(again, logits_of(1, seed=step), row), dtype=np.int32))
    assert again.token_ids[1, 3:13].tolist() == known


def histogram(sampling: dict[str, float], logits: torch.Tensor, draws: int) -> np.ndarray:
    """How often each token is drawn over `draws` seeds."""
    table = table_of(*(SamplingParams(seed=seed, **sampling) for seed in range(draws)), num_rows=draws)
    found = tokens(table, logits.expand(draws, -1).contiguous(), rows_of(draws))
    return np.bincount(found, minlength=logits.shape[1])


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.0, "top_k": 12},
        {"temperature": 1.5, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.05},
    ],
)
def test_draws_follow_the_distribution(sampling: dict[str, float]):
    logits = logits_of(1, vocab=40, seed=1) / 2
    draws = 6000
    found = histogram(sampling, logits, draws)
    kept = reference_kept(logits[0].numpy(), sampling)
    weights = np.exp((logits[0].double().numpy() - logits.max().item()) / sampling["temperature"])
    expected = np.where(kept, weights, 0.0)
    expected *= draws / expected.sum()
    assert (found[~kept] == 0).all()
    chi_square = ((found - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = kept.sum() - 1
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)  # about one in 10**4 by chance, and the seeds are fixed


def reference_kept(logits: np.ndarray, sampling: dict[str, float]) -> np.ndarray:
    """Which tokens top-k, min-p and top-p leave, by their definitions."""
    scaled = logits.astype(np.float64) / sampling["temperature"]
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.lexsort((np.arange(len(logits)), -probabilities))
    kept = np.zeros(len(logits), dtype=bool)
    count = int(sampling.get("top_k", 0)) or len(logits)
    if "min_p" in sampling:
        count = min(count, int((probabilities >= sampling["min_p"] * probabilities.max()).sum()))
    beginning = probabilities[order[:count]]
    if "top_p" in sampling:
        running = np.cumsum(beginning) / beginning.sum()
        count = min(count, int((running < sampling["top_p"]).sum()) + 1)
    kept[order[:count]] = True
    return kept


def test_rows_that_are_not_finite_fail_alone():
    params = mixed_params()
    table, logits = table_of(*params), logits_of(len(params))
    expected = tokens(table, logits, rows_of(len(params)))
    logits[1, 17], logits[5, 3], logits[8, 999] = torch.nan, torch.inf, -torch.inf
    sampled = sample(table, logits, rows_of(len(params)), 0)
    assert np.flatnonzero(sampled.is_failed).tolist() == [1, 5, 8]
    good = ~sampled.is_failed
    assert sampled.token_ids[good].tolist() == np.array(expected)[good].tolist()
    assert sampled.token_ids[~good].tolist() == [0, 0, 0]
