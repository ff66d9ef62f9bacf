"""A model of whole numbers with a paged cache: the same bits whatever the batch around a row and the order of sums.

It has the pieces of a real one (segments, two attentions, a norm of nothing, a head) and is slow to confuse: a wrong
position, block, slot or token changes everything that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.layers.segment import Segment
from support.thread_stream import DEVICE

MODULUS = 509.0
WIDTH = 8  # of the residual stream: of each head of the cache too
NUM_LAYERS = 2


@dataclass(frozen=True)
class ToySpec:
    vocab_size: int


class ToyModel:
    """See the module; float64 within, so that sums of whole numbers are exact and NaN stays NaN."""

    def __init__(self, vocab_size: int = 61, max_tokens: int = 128, max_positions: int = 128) -> None:
        dice = torch.Generator().manual_seed(11)

        def weights(*shape: int) -> Tensor:
            return torch.randint(0, int(MODULUS), shape, generator=dice).double().to(DEVICE)

        self.spec = ToySpec(vocab_size)
        self.hidden = torch.zeros(max_tokens, WIDTH, device=DEVICE)
        self.embedding, self.places = weights(vocab_size, WIDTH), weights(max_positions, WIDTH)
        self.mixes = [weights(WIDTH, WIDTH) for _ in range(NUM_LAYERS)]
        self.head = weights(WIDTH, vocab_size)
        self._attended = torch.zeros(max_tokens, WIDTH, dtype=torch.float64, device=DEVICE)
        self.num_prepared = 0

    @staticmethod
    def kv_cache(num_blocks: int, block_size: int) -> Tensor:
        return torch.full((num_blocks, 1, NUM_LAYERS, 2, block_size, WIDTH), torch.nan, device=DEVICE)

    def segments(self, batch: ForwardBatch) -> list[Segment]:
        attentions = [partial(self._attend, layer, batch) for layer in range(NUM_LAYERS)]
        pieces = [partial(self._begin, batch), *(partial(self._between, layer, batch) for layer in range(NUM_LAYERS))]
        segments = [Segment(run=self._prepare, is_attention=True), Segment(run=pieces[0], is_attention=False)]
        for attention, piece in zip(attentions, pieces[1:], strict=True):
            segments += [Segment(run=attention, is_attention=True), Segment(run=piece, is_attention=False)]
        return segments

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        assert out is not None
        return out.copy_(torch.fmod(hidden.double() @ self.head, MODULUS) / 64)

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """What it says after `prompt`, computed without a cache."""
        known = list(prompt)
        for _ in range(count):
            known.append(int(self.all_logits(known)[-1].argmax()))
        return known[len(prompt) :]

    def all_logits(self, known: Sequence[int]) -> Tensor:
        """Of every position."""
        hidden = torch.fmod(self.embedding[list(known)] + self.places[: len(known)], MODULUS)
        for mix in self.mixes:
            hidden = torch.fmod(torch.fmod(hidden.cumsum(0), MODULUS) @ mix + hidden, MODULUS)
        return (torch.fmod(hidden @ self.head, MODULUS) / 64).float().cpu()

    def _prepare(self) -> None:
        self.num_prepared += 1

    def _begin(self, batch: ForwardBatch) -> None:
        hidden = torch.fmod(self.embedding[batch.input_ids] + self.places[batch.positions], MODULUS)
        self._write(0, batch, hidden)

    def _between(self, layer: int, batch: ForwardBatch) -> None:
        """From the attention of a layer to the next one's."""
        count = len(batch.input_ids)
        hidden = torch.fmod(self._attended[:count] @ self.mixes[layer] + self.hidden[:count].double(), MODULUS)
        self._write(layer + 1, batch, hidden)

    def _write(self, layer: int, batch: ForwardBatch, hidden: Tensor) -> None:
        self.hidden[: len(hidden)] = hidden.float()
        if layer == NUM_LAYERS:
            return
        assert batch.slots is not None
        block_size, plane = batch.kv_cache.shape[4], batch.kv_cache[:, 0, layer]
        is_kept = batch.slots >= 0
        blocks = torch.where(is_kept, batch.slots // block_size, 0)
        for index in range(2):  # padding writes what is there already
            cells = plane[:, index]
            old = cells[blocks, batch.slots % block_size]
            cells[blocks, batch.slots % block_size] = torch.where(is_kept[:, None], hidden.float(), old)

    def _attend(self, layer: int, batch: ForwardBatch) -> None:
        """The sum over all positions up to each token's own; nothing beyond is looked at."""
        count, num_requests = len(batch.input_ids), len(batch.rows)
        tokens = torch.arange(count, device=DEVICE)
        request = torch.searchsorted(batch.query_start_loc[1:].long(), tokens, right=True)
        is_owned = request < num_requests
        rows = batch.rows[request.clamp(max=num_requests - 1)]
        blocks = batch.block_table[rows].long()  # [count, max_blocks]
        block_size = batch.kv_cache.shape[4]
        found = batch.kv_cache[blocks.clamp(min=0), 0, layer, 1].double().flatten(1, 2)
        position = torch.arange(blocks.shape[1] * block_size, device=DEVICE)
        first = batch.seq_lens - batch.query_start_loc.diff()
        own = (
            first[request.clamp(max=num_requests - 1)]
            + tokens
            - batch.query_start_loc[request.clamp(max=num_requests - 1)]
        )
        is_seen = (position <= own[:, None]) & is_owned[:, None]
        total = torch.where(is_seen[..., None], found, 0.0).sum(1)
        self._attended[:count] = torch.where(is_owned[:, None], torch.fmod(total, MODULUS), self._attended[:count])
