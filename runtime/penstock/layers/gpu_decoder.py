"""A decoder on a GPU, as pieces that can be captured in graphs, all on memory that was taken before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from penstock.attention.backend import AttentionBackend, ForwardBatch
from penstock.layers.decoder_weights import DecoderWeights
from penstock.layers.segment import Segment
from penstock.layers.workspace import Workspace
from penstock_kernels.cpu.decoder_plan import DecoderLayer
from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.gpu.dense_weight import DenseWeight
from penstock_kernels.gpu.gated_activation import gated_activation
from penstock_kernels.gpu.rms_norm import rms_norm
from penstock_kernels.gpu.rope_kv_write import HeadNorms, rope_kv_write


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLayer:
    """One layer as it runs here."""

    weights: DecoderLayer
    qkv: DenseWeight
    output: DenseWeight
    gate_up: DenseWeight
    down: DenseWeight
    norms: HeadNorms | None

    @classmethod
    def of(cls, layer: DecoderLayer, eps: float) -> GpuLayer:
        """The same weights."""
        norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            norms = HeadNorms(query=layer.q_norm, key=layer.k_norm, eps=eps)
        return cls(
            weights=layer,
            qkv=dense(layer.qkv),
            output=dense(layer.output),
            gate_up=dense(layer.gate_up),
            down=dense(layer.down),
            norms=norms,
        )


def dense(weight: PackedWeight) -> DenseWeight:
    """What `GpuOps` packed."""
    assert isinstance(weight, DenseWeight), f"a weight of {type(weight).__name__} on a GPU"
    return weight


class GpuDecoder:
    """Runs a model's layers between attentions as one piece each; nothing is allocated while it runs."""

    def __init__(self, weights: DecoderWeights, workspace: Workspace, attention: AttentionBackend) -> None:
        self.workspace = workspace
        self.attention = attention
        self._eps = weights.shape.eps
        self._layers = [GpuLayer.of(layer, self._eps) for layer in weights.layers]
        self._embedding, self._head = dense(weights.embedding), dense(weights.head)
        self._final_norm, self._cos_sin = weights.final_norm, weights.cos_sin
        self._next_norms = [*(layer.input_norm for layer in weights.layers[1:]), weights.final_norm]

    def compile(self) -> None:
        """What is to be done once before the first step: nothing, since kernels are compiled as they are launched."""

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
        num_tokens, last = len(batch.input_ids), len(self._layers) - 1
        assert num_tokens <= work.limits.max_tokens, f"{num_tokens} tokens in a workspace of {work.limits.max_tokens}"
        query, attended = work.query(num_tokens), work.attended(num_tokens)
        segments = [
            Segment(run=partial(self.attention.prepare, batch), is_attention=True),
            Segment(run=partial(self._begin, batch), is_attention=False),
        ]
        for index in range(len(self._layers)):
            attend = partial(self.attention.attend, index, query, batch, attended)
            piece = partial(self._feed_forward, index, num_tokens)
            if index < last:
                piece = partial(self._between, index, batch)
            segments += (Segment(run=attend, is_attention=True), Segment(run=piece, is_attention=False))
        return segments

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Run every segment: the part of `hidden` that belongs to the batch."""
        for segment in self.segments(batch):
            segment.run()
        return self.hidden[: len(batch.input_ids)]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """`hidden` [k, hidden_size] -> [k, vocab_size], in float32 unless `out` says otherwise; final norm included."""
        most = len(self.workspace.normed)
        assert len(hidden) <= most, f"logits of {len(hidden)} rows in a workspace of {most}"
        normed = self.workspace.normed[: len(hidden)]
        if out is None:
            out = torch.empty(len(hidden), self._head.out_features, dtype=torch.float32, device=hidden.device)
        rms_norm(hidden, self._final_norm, self._eps, out=normed).run()
        return self._head.product(normed, out)

    def _begin(self, batch: ForwardBatch) -> None:
        """Embed, and get the first layer's queries, keys and values ready."""
        work, num_tokens = self.workspace, len(batch.input_ids)
        self._embedding.rows(batch.input_ids, work.ids[:num_tokens], work.hidden[:num_tokens])
        rms_norm(
            work.hidden[:num_tokens], self._layers[0].weights.input_norm, self._eps, out=work.normed[:num_tokens]
        ).run()
        self._query_key_value(0, batch)

    def _between(self, index: int, batch: ForwardBatch) -> None:
        """From a layer's attention to the next one's."""
        self._feed_forward(index, len(batch.input_ids))
        self._query_key_value(index + 1, batch)

    def _feed_forward(self, index: int, num_tokens: int) -> None:
        """From what attention left to the residual stream after the MLP, and its norm for what follows."""
        layer, work = self._layers[index], self.workspace
        delta, normed = work.delta[:num_tokens], work.normed[:num_tokens]
        layer.output.product(work.attended(num_tokens).flatten(1), delta)
        self._add_and_norm(layer.weights.mlp_norm, num_tokens)
        gate_up = layer.gate_up.product(normed, work.wide(num_tokens, layer.gate_up.out_features))
        activated = work.activated(num_tokens, layer.down.in_features)
        gated_activation(gate_up, "silu", out=activated).run()
        layer.down.product(activated, delta)
        self._add_and_norm(self._next_norms[index], num_tokens)

    def _add_and_norm(self, weight: Tensor, num_tokens: int) -> None:
        """Add `delta` to the residual stream, and norm that."""
        work = self.workspace
        normed, residual = work.normed[:num_tokens], work.hidden[:num_tokens]
        rms_norm(work.delta[:num_tokens], weight, self._eps, out=normed, residual=residual).run()

    def _query_key_value(self, index: int, batch: ForwardBatch) -> None:
        """Rotated queries into the workspace, keys and values into the cache."""
        assert batch.slots is not None, "a batch without slots on a GPU"
        layer, work, num_tokens = self._layers[index], self.workspace, len(batch.input_ids)
        qkv = layer.qkv.product(work.normed[:num_tokens], work.wide(num_tokens, layer.qkv.out_features))
        rope_kv_write(
            qkv,
            batch.kv_cache,
            index,
            positions=batch.positions,
            slots=batch.slots,
            cos_sin=self._cos_sin,
            query=work.query(num_tokens),
            norms=layer.norms,
        ).run()
