"""A decoder on a GPU, as pieces that can be captured in graphs, all on memory that was taken before."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from penstock.attention.backend import AttentionBackend, ForwardBatch
from penstock.layers.between import Batched, Between, FewRows, dense
from penstock.layers.decoder_weights import DecoderWeights
from penstock.layers.segment import Segment
from penstock.layers.workspace import Workspace
from penstock_kernels.cpu.decoder_plan import DecoderLayer
from penstock_kernels.gpu.matvec import MOST_ROWS, Norm
from penstock_kernels.gpu.rms_norm import rms_norm
from penstock_kernels.gpu.rope_kv_write import HeadNorms, rope_kv_write


def head_norms(layer: DecoderLayer, eps: float) -> HeadNorms | None:
    """The norms of a layer's queries and keys, if it has any."""
    if layer.q_norm is None or layer.k_norm is None:
        return None
    return HeadNorms(query=layer.q_norm, key=layer.k_norm, eps=eps)


class GpuDecoder:
    """Runs a model's layers between attentions as one piece each.

    Nothing is allocated while it runs, unless by `batched`, the way of all but a few rows.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        workspace: Workspace,
        attention: AttentionBackend,
        batched: Between | None = None,
    ) -> None:
        """`batched` on the same weights and workspace; default: a library and our kernels."""
        eps = weights.shape.eps
        self.workspace = workspace
        self.attention = attention
        self._batched, self._few = batched or Batched(weights, workspace), FewRows(weights, workspace)
        self._head_norms = [head_norms(layer, eps) for layer in weights.layers]
        self._embedding, self._head = dense(weights.embedding), dense(weights.head)
        self._final_norm, self._cos_sin = Norm(weight=weights.final_norm, eps=eps), weights.cos_sin
        self._kv_scales = weights.kv_scales

    @property
    def hidden(self) -> Tensor:
        """[max_tokens, hidden_size]: where the last segment leaves its result, before the final norm."""
        return self.workspace.hidden

    def segments(self, batch: ForwardBatch) -> list[Segment]:
        """All layers for this batch's tokens; between two attentions lies exactly one piece.

        They read the tensors of `batch` when they run, and may be run again once those hold another step of the same
        shape.
        """
        work = self.workspace
        num_tokens, last = len(batch.input_ids), len(self._head_norms) - 1
        assert num_tokens <= work.limits.max_tokens, f"{num_tokens} tokens in a workspace of {work.limits.max_tokens}"
        between = self._few if self._are_few(num_tokens) else self._batched
        query, attended = work.query(num_tokens), work.attended(num_tokens)
        segments = [
            Segment(run=partial(self.attention.prepare, batch), is_attention=True),
            Segment(run=partial(self._begin, batch, between), is_attention=False),
        ]
        for index in range(last + 1):
            attend = partial(self.attention.attend, index, query, batch, attended, self._kv_scales[index])
            piece = partial(self._next, index, batch, between) if index < last else partial(between.last, num_tokens)
            segments += (Segment(run=attend, is_attention=True), Segment(run=piece, is_attention=False))
        return segments

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run every segment: the part of `hidden` that belongs to the batch."""
        for segment in self.segments(batch):
            segment.run()
        return self.hidden[: len(batch.input_ids)]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """`hidden` [k, hidden_size] -> [k, vocab_size], in float32 unless `out` says otherwise; final norm included."""
        most, norm = len(self.workspace.normed), self._final_norm
        assert len(hidden) <= most, f"logits of {len(hidden)} rows in a workspace of {most}"
        if out is None:
            out = torch.empty(len(hidden), self._head.out_features, dtype=torch.float32, device=hidden.device)
        if self._are_few(len(hidden)):
            return self._head.product_of_few(hidden, out, norm=norm)
        normed = self.workspace.normed[: len(hidden)]
        rms_norm(hidden, norm.weight, norm.eps, out=normed).run()
        return self._head.product(normed, out)

    def _are_few(self, num_rows: int) -> bool:
        """Whether so many rows go through kernels of their own; their bits then depend on how many they are."""
        return num_rows <= MOST_ROWS and not self._head.is_fixed

    def _begin(self, batch: ForwardBatch, between: Between) -> None:
        """Embed, and get the first layer's queries, keys and values ready."""
        work, num_tokens = self.workspace, len(batch.input_ids)
        self._embedding.rows(batch.input_ids, work.ids[:num_tokens], work.hidden[:num_tokens])
        self._write(0, between.first(num_tokens), batch)

    def _next(self, index: int, batch: ForwardBatch, between: Between) -> None:
        """From a layer's attention to the next one's."""
        self._write(index + 1, between.next(index, len(batch.input_ids)), batch)

    def _write(self, index: int, qkv: Tensor, batch: ForwardBatch) -> None:
        """Rotated queries into the workspace, keys and values into the cache."""
        assert batch.slots is not None, "a batch without slots on a GPU"
        rope_kv_write(
            qkv,
            batch.kv_cache,
            index,
            positions=batch.positions,
            slots=batch.slots,
            cos_sin=self._cos_sin,
            query=self.workspace.query(len(batch.input_ids)),
            norms=self._head_norms[index],
            scales=self._kv_scales[index],
        ).run()
