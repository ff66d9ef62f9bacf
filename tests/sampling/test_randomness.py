"""The counter-based random numbers."""

from __future__ import annotations

import numpy as np

from penstock.sampling.randomness import uniforms

RECORDED = [0.368189515652, 0.392216462424, 0.774399171667, 0.36624209017]  # of version 0.1.0


def test_numbers_are_a_function_of_seed_and_index():
    seeds = np.array([1, 2, 1, -1], dtype=np.int64)
    indices = np.array([0, 0, 5, 0], dtype=np.int64)
    drawn = uniforms(seeds, indices)
    assert drawn.tolist() == uniforms(seeds[::-1].copy(), indices[::-1].copy())[::-1].tolist()
    assert len(set(drawn.tolist())) == 4
    assert [round(number, 12) for number in drawn.tolist()] == RECORDED  # replay may cross versions


def test_numbers_are_uniform_along_both_axes():
    grid = np.arange(200_000, dtype=np.int64)
    same = np.zeros_like(grid)
    for drawn in (uniforms(grid, same), uniforms(same, grid), uniforms(grid << 32, grid)):
        counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 99 + 4 * np.sqrt(198)
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01


def test_neighbouring_seeds_share_no_numbers():
    first = uniforms(np.full(1000, 41), np.arange(1000))
    second = uniforms(np.full(1000, 42), np.arange(1000))
    assert not set(first.tolist()) & set(second.tolist())
