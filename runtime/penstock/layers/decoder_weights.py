"""A loaded model, as whatever runs it takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderShape
from penstock_kernels.cpu.packed_weight import PackedWeight
from penstock_kernels.kv_scales import KvScales


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWeights:
    """All weights of a decoder, on its device."""

    embedding: PackedWeight
    layers: Sequence[DecoderLayer]
    final_norm: Tensor  # float32 [hidden]
    head: PackedWeight
    cos_sin: Tensor  # float32 [positions, head_dim]
    shape: DecoderShape
    kv_scales: Sequence[KvScales]  # of each layer
