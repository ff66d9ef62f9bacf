"""What a decoder on a GPU computes between two attentions, in the ways that suit different numbers of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from penstock.layers.decoder_weights import DecoderWeights
from penstock.layers.workspace import Workspace
from penstock_kernels.cpu.decoder_plan import DecoderLayer
from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.gpu.dense_weight import DenseWeight
from penstock_kernels.gpu.gated_activation import gated_activation
from penstock_kernels.gpu.matvec import Norm
from penstock_kernels.gpu.rms_norm import rms_norm


def dense(weight: PackedWeight) -> DenseWeight:
    """What `GpuOps` packed."""
    assert isinstance(weight, DenseWeight), f"a weight of {type(weight).__name__} on a GPU"
    return weight


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLayer:
    """One layer's weights as they are multiplied here."""

    input_norm: Norm
    qkv: DenseWeight
    output: DenseWeight
    mlp_norm: Norm
    gate_up: DenseWeight
    down: DenseWeight

    @classmethod
    def of(cls, layer: DecoderLayer, eps: float) -> GpuLayer:
        """The same weights."""
        return cls(
            input_norm=Norm(weight=layer.input_norm, eps=eps),
            qkv=dense(layer.qkv),
            output=dense(layer.output),
            mlp_norm=Norm(weight=layer.mlp_norm, eps=eps),
            gate_up=dense(layer.gate_up),
            down=dense(layer.down),
        )


class Between(ABC):
    """Works on the first `num_tokens` rows of a workspace; whoever begins goes on to the end."""

    def __init__(self, weights: DecoderWeights, work: Workspace) -> None:
        self._layers = [GpuLayer.of(layer, weights.shape.eps) for layer in weights.layers]
        self._work = work

    def first(self, num_tokens: int) -> Tensor:
        """From embeddings in `hidden` to the first layer's queries, keys and values [num_tokens, of all heads]."""
        return self._query_key_value(0, num_tokens)

    def next(self, layer: int, num_tokens: int) -> Tensor:
        """From what attention of a layer left in `attended` to those of the layer after it."""
        self._feed_forward(layer, num_tokens)
        return self._query_key_value(layer + 1, num_tokens)

    def last(self, num_tokens: int) -> None:
        """From the last layer's attention to its sum with the residual stream, in `hidden`."""
        self._feed_forward(len(self._layers) - 1, num_tokens)

    @abstractmethod
    def _feed_forward(self, layer: int, num_tokens: int) -> None:
        """From what attention of a layer left in `attended` to the residual stream after the MLP."""

    @abstractmethod
    def _query_key_value(self, layer: int, num_tokens: int) -> Tensor:
        """Queries, keys and values of a layer, not rotated yet."""


class Batched(Between):
    """Any number of rows: products by a library, and a kernel for each thing between them.

    The norm before a layer's queries, keys and values, which are read from `normed`, is part of what comes before them.
    """

    def __init__(self, weights: DecoderWeights, work: Workspace) -> None:
        super().__init__(weights, work)
        final_norm = Norm(weight=weights.final_norm, eps=weights.shape.eps)
        self._next_norms = [*(layer.input_norm for layer in self._layers[1:]), final_norm]

    def first(self, num_tokens: int) -> Tensor:
        """See `Between.first`."""
        norm, work = self._layers[0].input_norm, self._work
        rms_norm(work.hidden[:num_tokens], norm.weight, norm.eps, out=work.normed[:num_tokens]).run()
        return super().first(num_tokens)

    def _feed_forward(self, layer: int, num_tokens: int) -> None:
        mine, work = self._layers[layer], self._work
        delta, normed = work.delta[:num_tokens], work.normed[:num_tokens]
        mine.output.product(work.attended(num_tokens).flatten(1), delta)
        self._add_and_norm(mine.mlp_norm, num_tokens)
        gate_up = mine.gate_up.product(normed, work.wide(num_tokens, mine.gate_up.out_features))
        activated = work.activated(num_tokens, mine.down.in_features)
        gated_activation(gate_up, "silu", out=activated).run()
        mine.down.product(activated, delta)
        self._add_and_norm(self._next_norms[layer], num_tokens)

    def _add_and_norm(self, norm: Norm, num_tokens: int) -> None:
        work = self._work
        normed, residual = work.normed[:num_tokens], work.hidden[:num_tokens]
        rms_norm(work.delta[:num_tokens], norm.weight, norm.eps, out=normed, residual=residual).run()

    def _query_key_value(self, layer: int, num_tokens: int) -> Tensor:
        qkv, work = self._layers[layer].qkv, self._work
        return qkv.product(work.normed[:num_tokens], work.wide(num_tokens, qkv.out_features))


class FewRows(Between):
    """One or two rows: each weight is read by a kernel that does what stands around it too."""

    def _feed_forward(self, layer: int, num_tokens: int) -> None:
        mine, work = self._layers[layer], self._work
        hidden, activated = work.hidden[:num_tokens], work.activated(num_tokens, mine.down.in_features)
        mine.output.product_of_few(work.attended(num_tokens).flatten(1), hidden, residual=hidden)
        mine.gate_up.product_of_few(hidden, activated, norm=mine.mlp_norm, is_gated=True)
        mine.down.product_of_few(activated, hidden, residual=hidden)

    def _query_key_value(self, layer: int, num_tokens: int) -> Tensor:
        mine, work = self._layers[layer], self._work
        out = work.wide(num_tokens, mine.qkv.out_features)
        return mine.qkv.product_of_few(work.hidden[:num_tokens], out, norm=mine.input_norm)
