"""What a single comparison cannot show of `sample_tokens`: which tokens may be drawn, how often, and from what."""

from __future__ import annotations

import pytest
import torch

from penstock_kernels.gpu.sample_tokens import Sampling, kept, sample_tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FEW = 24  # draws in the interpreter, which takes 0.2 s for a row whose filters need a search
FILTERS = (
    {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 5, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 0, "top_p": 0.8, "min_p": 0.0},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.2},
    {"top_k": 7, "top_p": 0.7, "min_p": 0.05},
    {"top_k": 100, "top_p": 0.999, "min_p": 0.0},
)


def draw(logits: torch.Tensor, limits: dict, seeds: list[int], index: int = 0) -> list[int]:
    """A token for each seed, all from the same `logits` [V]."""
    count = len(seeds)
    columns = {name: torch.full((count,), value, device=DEVICE) for name, value in limits.items()}
    sampling = Sampling(
        temperature=torch.full((count,), 0.8, device=DEVICE),
        top_k=columns["top_k"].to(torch.int32),
        top_p=columns["top_p"].float(),
        min_p=columns["min_p"].float(),
        seed=torch.tensor(seeds, device=DEVICE),
        index=torch.full((count,), index, dtype=torch.int32, device=DEVICE),
    )
    token_ids = torch.empty(count, dtype=torch.int32, device=DEVICE)
    sample_tokens(logits.expand(count, -1).contiguous(), sampling, token_ids=token_ids).run()
    return token_ids.tolist()


@pytest.fixture
def logits() -> torch.Tensor:
    """With equals among the likely ones."""
    values = 1.5 * torch.randn(40, generator=torch.Generator().manual_seed(5))
    return (values * 2).round().div(2).to(DEVICE)


@pytest.mark.parametrize("limits", FILTERS, ids=str)
def test_tokens_come_as_often_as_they_should_and_others_never(logits, limits):
    allowed = kept(logits, temperature=0.8, **limits)
    is_searched = limits["top_k"] > 0 or limits["top_p"] < 1
    draws = 4000 if DEVICE == "cuda" else FEW if is_searched else 100
    counts = torch.bincount(torch.tensor(draw(logits, limits, list(range(draws)))), minlength=len(logits))
    assert not counts[~allowed.cpu()].any()
    share = torch.softmax((logits / 0.8).masked_fill(~allowed, float("-inf")), dim=0).cpu()
    expected = share * draws
    statistic = ((counts - expected).square() / expected.clamp(min=1e-9))[allowed.cpu()].sum().item()
    freedom = int(allowed.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 8  # four standard deviations of chi-square


def test_a_row_draws_by_its_seed_and_output_index_alone(logits):
    everything = FILTERS[0]
    seeds = [3, 2**62, -9, 4]
    together = draw(logits, everything, seeds)
    assert [draw(logits, everything, [seed])[0] for seed in seeds] == together
    later = [draw(logits, everything, [3], index=index)[0] for index in range(12)]
    assert len(set(later)) > 3


def test_a_top_k_among_equals_keeps_the_lowest_ids():
    equals = torch.zeros(30, device=DEVICE)
    assert set(draw(equals, {"top_k": 3, "top_p": 1.0, "min_p": 0.0}, list(range(FEW // 2)))) == {0, 1, 2}
    assert set(draw(equals, {"top_k": 0, "top_p": 0.1, "min_p": 0.0}, list(range(FEW // 2)))) == {0, 1, 2}
