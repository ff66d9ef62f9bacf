"""Random numbers as a pure function of (seed, output index), so that a replayed request draws what it drew before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the increment of SplitMix64
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
FRACTION_BITS = 52  # one less than a double has, so that u * total stays below total


def uniforms(seeds: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair; all 64 bits of the seed count. # all [n]

    SplitMix64 (Steele, Lea, Flood 2014) over the index, from a start that is the mixed seed: streams of different
    seeds begin far apart, which the plain generator does not promise for neighbouring seeds.
    """
    start = _mix(seeds.view(np.uint64) + GOLDEN)
    mixed = _mix(start + (indices.view(np.uint64) + np.uint64(1)) * GOLDEN)
    return (mixed >> np.uint64(64 - FRACTION_BITS)).astype(np.float64) * 2.0**-FRACTION_BITS


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser; arrays wrap around silently."""
    state = (state ^ (state >> np.uint64(30))) * MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
