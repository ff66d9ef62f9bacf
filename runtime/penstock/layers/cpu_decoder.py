"""A decoder on the CPU: whole layers in one call of the kernels."""

from __future__ import annotations

from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.layers.decoder_weights import DecoderWeights
from penstock_kernels.cpu import ops
from penstock_kernels.cpu.attention_inputs import AttentionInputs
from penstock_kernels.cpu.packed_weight import cpu_weight


class CpuDecoder:
    """See `Decoder`; every result is a new float32 tensor."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._weights = weights
        self._embedding, self._head = cpu_weight(weights.embedding), cpu_weight(weights.head)
        self._plan = ops.decoder_plan(weights.layers, weights.shape)

    def forward(self, batch: ForwardBatch) -> Tensor:
        """See `Decoder.forward`."""
        inputs = AttentionInputs(
            positions=batch.positions,
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            rows=batch.rows,
            block_table=batch.block_table,
            cos_sin=self._weights.cos_sin,
        )
        hidden = ops.embedding(batch.input_ids, self._embedding)
        self._plan.run(hidden, batch.kv_cache, inputs)
        return hidden

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Decoder.logits`."""
        weights = self._weights
        return ops.linear(hidden, self._head, norm=weights.final_norm, eps=weights.shape.eps, out=out)
