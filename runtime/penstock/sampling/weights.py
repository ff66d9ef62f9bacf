"""Unnormalised probabilities of a batch of rows, in the form that drawing, filtering and log-probabilities share.

Every number of a row is computed in an order that depends on that row alone: sums run within fixed chunks of the
vocabulary, then over the chunks. So a row has the same bits whatever the batch around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.core.plan import Floats

CHUNK = 256  # tokens that are summed together


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`exp((logit - largest) / temperature)`: the likeliest token of a row weighs 1."""

    values: Floats  # [n, num_chunks * CHUNK] zero from vocab_size on
    vocab_size: int
    chunk_sums: NDArray[np.float64]  # [n, num_chunks]

    @property
    def totals(self) -> NDArray[np.float64]:
        """Sum of each row, the last of its running sums over the chunks. # [n]"""
        return np.cumsum(self.chunk_sums, axis=1)[:, -1]

    def chunk_maxima(self) -> Floats:
        """Largest weight of each chunk. # [n, num_chunks]"""
        return torch.from_numpy(self._by_chunk()).amax(dim=-1).numpy()

    def row(self, index: int) -> Weights:
        """One row, as a view."""
        part = slice(index, index + 1)
        return Weights(values=self.values[part], vocab_size=self.vocab_size, chunk_sums=self.chunk_sums[part])

    def draw(self, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        """The token of each row at which its running sum, in order of token id, passes `uniforms` [n] of the total."""
        running = np.cumsum(self.chunk_sums, axis=1)
        targets = uniforms * running[:, -1]
        chunks = np.minimum((running <= targets[:, None]).sum(axis=1), running.shape[1] - 1)
        index = np.arange(len(targets))
        sums = self.chunk_sums[index, chunks]
        within = np.cumsum(self._by_chunk()[index, chunks], axis=1, dtype=np.float64)  # [n, CHUNK]
        # the chunk's sum was rounded to float32, so what is left of the target is scaled to the exact one
        shares = np.clip((targets - (running[index, chunks] - sums)) / sums, 0.0, 1.0 - 2.0**-52)
        tokens: NDArray[np.int64] = chunks * CHUNK + (within <= (shares * within[:, -1])[:, None]).sum(axis=1)
        return tokens

    def _by_chunk(self) -> Floats:
        return self.values.reshape(len(self.values), -1, CHUNK)


def build_weights(logits: Floats, temperatures: Floats | None = None) -> Weights:
    """Weights of `logits` [n, vocab_size], which must be finite or -inf, with at least one finite in each row."""
    count, vocab_size = logits.shape
    values = np.empty((count, -(-vocab_size // CHUNK) * CHUNK), dtype=np.float32)
    values[:, vocab_size:] = 0.0
    part = values[:, :vocab_size]
    largest = torch.from_numpy(logits).amax(dim=1, keepdim=True).numpy()
    np.subtract(logits, largest, out=part)
    if temperatures is not None:
        np.divide(part, temperatures[:, None], out=part)
    np.exp(part, out=part)
    sums = torch.from_numpy(values.reshape(count, -1, CHUNK)).sum(dim=-1)
    return Weights(values=values, vocab_size=vocab_size, chunk_sums=sums.numpy().astype(np.float64))
