"""Weights and plain draws."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.sampling.weights import build_weights


@pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 49152])
def test_a_draw_is_the_inverse_of_the_distribution_function(vocab: int):
    logits = np.random.default_rng(vocab).standard_normal((50, vocab)).astype(np.float32)
    uniforms = np.linspace(0, 1 - 2.0**-52, 50)
    weights = build_weights(logits)
    exact = np.exp(logits.astype(np.float64))
    running = np.cumsum(exact, axis=1) / exact.sum(axis=1, keepdims=True)
    drawn = weights.draw(uniforms)
    index = np.arange(50)
    below = np.where(drawn > 0, running[index, drawn - 1], 0.0)
    assert (below <= uniforms + 1e-6).all()
    assert (running[index, drawn] >= uniforms - 1e-6).all()


def test_tokens_without_weight_are_never_drawn():
    logits = np.full((3, 1000), -np.inf, dtype=np.float32)
    logits[:, 600] = 0.0
    logits[2, 999] = 0.0
    drawn = build_weights(logits).draw(np.array([0.0, 1 - 2.0**-52, 1 - 2.0**-52]))
    assert drawn.tolist() == [600, 600, 999]


def test_a_row_has_the_same_bits_in_any_batch():
    logits = np.random.default_rng(0).standard_normal((40, 49152)).astype(np.float32)
    temperatures = np.full(40, 0.7, dtype=np.float32)
    together = build_weights(logits, temperatures)
    for index in (0, 17, 39):
        alone = build_weights(logits[index : index + 1], temperatures[:1])
        assert np.array_equal(alone.values[0], together.values[index])
        assert np.array_equal(alone.chunk_sums[0], together.chunk_sums[index])
        assert alone.totals[0] == together.totals[index]
