"""What runs a loaded model on a device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.layers.segment import Segment


class Decoder(Protocol):
    """All layers between token ids and logits."""

    def forward(self, batch: ForwardBatch) -> Tensor:
        """[num_tokens, hidden_size] before the final norm; writes keys and values into the cache."""

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """`hidden` [k, hidden_size] -> [k, vocab_size], float32 unless `out` is not; the final norm is included."""


class SegmentedDecoder(Decoder, Protocol):
    """A decoder whose steps can be cut, kept and captured."""

    @property
    def hidden(self) -> Tensor:
        """[max_tokens, hidden_size]: where the last segment leaves its result, before the final norm."""

    def segments(self, batch: ForwardBatch) -> list[Segment]:
        """A step of this batch's shape, on the memory of its tensors."""
