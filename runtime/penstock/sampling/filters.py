"""Drawing from the likeliest tokens only: top-k, min-p and top-p, without sorting the vocabulary.

All three keep a beginning of the row's tokens in order of falling weight (lower id first among equals), so only that
beginning has to be found and sorted:

```
weight   ▇▇▆▅▄▃▂▂▁▁▁▁▁▁▁▁▁▁▁▁▁▁…
         kept    │        │ rest, each below the threshold: never looked at
         candidates ──────┘
```
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import Floats, Ints
from penstock.sampling.weights import Weights

LIKELY_ENOUGH = 8.0  # times `_left_out`: held top-p in 236 of 236 rows of SmolLM2 at 0.9 and 0.95, in 83 % at 0.99
SURELY_ENOUGH = 0.5  # below that, all tokens together weigh less than top-p leaves out
SMALLEST = np.finfo(np.float32).tiny
LARGEST = np.float32(1.0)  # weight of the likeliest token
UNLIMITED = np.int64(np.iinfo(np.int64).max)
ONE_BITS = np.int64(0x3F800000)  # the float32 1.0, the largest weight; bits of floats >= 0 order as the floats do
ID_MASK = np.int64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterLimits:
    """What each row keeps. # all [n]"""

    top_k: Ints  # 0: off
    top_p: Floats  # 1: off; share of what top_k and min_p leave
    min_p: Floats  # 0: off; share of the likeliest token's probability

    def row(self, index: int) -> FilterLimits:
        """One row's limits."""
        part = slice(index, index + 1)
        return FilterLimits(top_k=self.top_k[part], top_p=self.top_p[part], min_p=self.min_p[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The kept tokens of each row: the first `counts[i]` of `token_ids[i]`."""

    token_ids: NDArray[np.int64]  # [n, width] in order of falling weight
    running: NDArray[np.float64]  # [n, width] running sums of their weights
    counts: NDArray[np.int64]  # [n] at least 1
    is_complete: NDArray[np.bool_]  # [n] False: the candidates were too few to tell

    def draw(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """The token of each row at which the running sum passes `uniforms` [n] of what is kept."""
        index = np.arange(len(uniforms))
        last = np.minimum(self.counts, self.running.shape[1]) - 1
        targets = uniforms * self.running[index, last]
        chosen = np.minimum((self.running <= targets[:, None]).sum(axis=1), last)
        tokens: NDArray[np.int64] = self.token_ids[index, chosen]
        return tokens


def draw_filtered(weights: Weights, limits: FilterLimits, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """A token for each row, drawn from those that its limits keep."""
    kept = keep(weights, limits, candidate_thresholds(weights, limits))
    tokens = kept.draw(uniforms)
    for index in np.flatnonzero(~kept.is_complete).tolist():  # flat distributions, or a large top_k
        part = slice(index, index + 1)
        tokens[index] = keep_exactly(weights.row(index), limits.row(index)).draw(uniforms[part])[0]
    return tokens


def candidate_thresholds(weights: Weights, limits: FilterLimits) -> Floats:
    """A weight for each row such that the tokens from there up are few and very likely enough. # [n] above 0"""
    thresholds = _left_out(weights, limits) * LIKELY_ENOUGH
    if (limits.top_k > 0).any():  # the k-th largest of the chunks' maxima: at least k tokens weigh as much
        maxima = weights.chunk_maxima()
        position = max(0, maxima.shape[1] - int(limits.top_k.max()))
        above = np.partition(maxima, position, axis=1)[:, position]
        thresholds = np.where(limits.top_k > 0, above, thresholds)
    is_min_p_alone = (limits.top_k == 0) & (limits.min_p > 0)
    thresholds = np.where(is_min_p_alone, limits.min_p, np.maximum(thresholds, limits.min_p))
    clipped: Floats = np.clip(thresholds, SMALLEST, LARGEST)
    return clipped


def keep_exactly(weights: Weights, limits: FilterLimits) -> Kept:
    """`keep` for a single row, with as many candidates as it takes."""
    if not limits.top_k[0]:
        kept = keep(weights, limits, np.clip(_left_out(weights, limits) * SURELY_ENOUGH, SMALLEST, LARGEST))
        if kept.is_complete[0]:
            return kept
    return keep(weights, limits, np.zeros(1, dtype=np.float32))


def _left_out(weights: Weights, limits: FilterLimits) -> Floats:
    """The weight that tokens outside top-p would have if all tokens shared theirs: the tail is far below it."""
    return ((1.0 - limits.top_p) * weights.totals / weights.vocab_size).astype(np.float32)


def keep(weights: Weights, limits: FilterLimits, thresholds: Floats) -> Kept:
    """The tokens that each row's limits keep, sought among those of at least `thresholds` [n] (0: among all)."""
    token_ids, values, sizes = _sorted_candidates(weights, thresholds)
    running = np.cumsum(values, axis=1, dtype=np.float64)
    first = np.where(limits.top_k > 0, np.minimum(limits.top_k, weights.vocab_size), UNLIMITED)
    above = np.maximum((values >= limits.min_p[:, None]).sum(axis=1), 1)
    is_counted = (limits.min_p > 0) & (thresholds <= limits.min_p)  # else some that min_p keeps may be missing
    first = np.where(is_counted, np.minimum(first, above), first)
    is_first_known = first <= sizes
    index = np.arange(len(sizes))
    base = np.where(is_first_known, running[index, np.where(is_first_known, first, 1) - 1], weights.totals)
    nucleus = (running < (limits.top_p * base)[:, None]).sum(axis=1) + 1
    counts = np.where(limits.top_p < 1.0, np.minimum(first, nucleus), first)
    is_all = thresholds <= 0
    is_known = is_first_known | ((limits.top_k == 0) & (limits.min_p == 0))
    return Kept(
        token_ids=token_ids,
        running=running,
        counts=np.where(is_all, np.minimum(counts, sizes), counts),
        is_complete=is_all | (is_known & (counts <= sizes)),
    )


def _sorted_candidates(weights: Weights, thresholds: Floats) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Ids and weights [n, width] of the tokens of at least `thresholds`, heaviest first, zeros behind; sizes [n]."""
    values = weights.values[:, : weights.vocab_size]
    owners, token_ids = np.divmod(np.flatnonzero(values >= thresholds[:, None]), weights.vocab_size)
    sizes = np.bincount(owners, minlength=len(values))
    columns = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found = values[owners, token_ids]
    keys = np.full((len(values), int(sizes.max())), UNLIMITED)
    keys[owners, columns] = (ONE_BITS - found.view(np.int32)) << 32 | token_ids
    keys.sort(axis=1)
    bits = np.where(np.arange(keys.shape[1]) < sizes[:, None], ONE_BITS - (keys >> 32), 0)
    return keys & ID_MASK, bits.astype(np.int32).view(np.float32), sizes
