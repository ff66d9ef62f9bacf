"""What top-k, top-p and min-p keep, against a plain sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.sampling.filters import FilterLimits, candidate_thresholds, draw_filtered, keep, keep_exactly
from penstock.sampling.weights import Weights, build_weights

VOCAB = 3000


def plain_kept(weights: Weights, index: int, limits: FilterLimits) -> tuple[list[int], float]:
    """The kept tokens in order, and how near the closest running sum comes to the top-p border."""
    values = weights.values[index, : weights.vocab_size].astype(np.float64)
    order = np.lexsort((np.arange(len(values)), -values))
    count = int(limits.top_k[index]) or len(values)
    if limits.min_p[index] > 0:
        count = min(count, int((values >= limits.min_p[index]).sum()))
    running = np.cumsum(values[order[:count]])
    border = float(limits.top_p[index]) * running[-1]
    if limits.top_p[index] < 1:
        count = min(count, int((running < border).sum()) + 1)
    return order[:count].tolist(), float(np.abs(running - border).min() / running[-1])


@st.composite
def limits_and_scales(draw: st.DrawFn) -> tuple[FilterLimits, np.ndarray, int, int]:
    count = draw(st.integers(1, 6))

    def column(values: st.SearchStrategy[float], kind: type) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype=kind)

    limits = FilterLimits(
        top_k=column(st.sampled_from([0, 1, 2, 50, 129, 700, 5000]), np.int32),
        top_p=column(st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]), np.float32),
        min_p=column(st.sampled_from([0.0, 1.0, 0.2, 0.001, 1e-7]), np.float32),
    )
    scales = column(st.sampled_from([0.01, 0.3, 2.0, 6.0, 40.0]), np.float32)
    return limits, scales, draw(st.integers(0, 2**31)), draw(st.sampled_from([2, 200, 256, VOCAB]))


@settings(max_examples=150, deadline=None)
@given(limits_and_scales(), st.booleans())
def test_keeps_exactly_what_the_definitions_keep(case: tuple[FilterLimits, np.ndarray, int, int], has_ties: bool):
    limits, scales, seed, vocab = case
    logits = np.random.default_rng(seed).standard_normal((len(scales), vocab)).astype(np.float32) * scales[:, None]
    if has_ties:
        logits = np.round(logits)
    weights = build_weights(logits)
    kept = keep(weights, limits, candidate_thresholds(weights, limits))
    for index in range(len(scales)):
        expected, distance = plain_kept(weights, index, limits)
        if kept.is_complete[index]:
            found, position = kept, index
        else:
            found, position = keep_exactly(weights.row(index), limits.row(index)), 0
        if limits.top_p[index] < 1 and distance < 1e-6:
            continue  # the last bit of a sum decides
        assert found.token_ids[position, : found.counts[position]].tolist()[: len(expected) + 1] == expected


def test_draws_fall_on_kept_tokens_at_both_ends():
    logits = np.random.default_rng(0).standard_normal((3, VOCAB)).astype(np.float32)
    weights = build_weights(logits)
    limits = FilterLimits(
        top_k=np.array([3, 0, 2500], dtype=np.int32),
        top_p=np.array([1.0, 0.3, 1.0], dtype=np.float32),
        min_p=np.zeros(3, dtype=np.float32),
    )
    for uniform, place in ((0.0, 0), (1 - 2.0**-52, -1)):
        drawn = draw_filtered(weights, limits, np.full(3, uniform))
        assert drawn.tolist() == [plain_kept(weights, index, limits)[0][place] for index in range(3)]


def test_usual_settings_need_no_second_look_at_the_vocabulary():
    logits = np.random.default_rng(0).standard_normal((4, 49152)).astype(np.float32) * 4
    weights = build_weights(logits)
    limits = FilterLimits(
        top_k=np.array([0, 50, 0, 40], dtype=np.int32),
        top_p=np.array([0.9, 1.0, 1.0, 0.95], dtype=np.float32),
        min_p=np.array([0.0, 0.0, 0.05, 0.0], dtype=np.float32),
    )
    kept = keep(weights, limits, candidate_thresholds(weights, limits))
    assert kept.is_complete.all()
    assert kept.token_ids.shape[1] < 5000
