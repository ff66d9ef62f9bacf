"""The CPU kernels: activations are float32, weights float32, bfloat16 or 8 or 4 bits, the KV cache bfloat16 or float32.

A row's result depends on that row alone, bit for bit: not on the batch around it, not on chunk boundaries, not on the
number of threads.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs, AttentionShape
from penstock_kernels.cpu.backend import Backend, TorchBackend
from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderPlan, DecoderShape
from penstock_kernels.cpu.library import Library, runnable_variants
from penstock_kernels.cpu.native_backend import NativeBackend
from penstock_kernels.cpu.packed_weight import ComputeType, CpuWeight
from penstock_kernels.cpu.quant_weight import QuantWeight, quantize

__all__ = [
    "AttentionInputs",
    "ComputeType",
    "CpuWeight",
    "DecoderLayer",
    "DecoderPlan",
    "DecoderShape",
    "QuantWeight",
    "attention",
    "backend_name",
    "decoder_plan",
    "embedding",
    "is_compiled",
    "linear",
    "pack",
    "place",
    "quantize",
    "rms_norm",
    "set_num_threads",
]

logger = logging.getLogger(__name__)


@functools.cache
def _backend() -> Backend:
    """The compiled kernels if there are any for this machine, else torch with one warning."""
    variants = runnable_variants()
    if variants:
        return NativeBackend(Library(variants[0]))
    logger.warning("no compiled CPU kernels: torch runs in their place, slowly; python -m penstock_kernels.cpu.build")
    return TorchBackend()


def backend_name() -> str:
    """What runs, such as "c++ avx512_bf16" or "torch"."""
    return _backend().name


def is_compiled() -> bool:
    """Whether compiled kernels run, not the torch fallback."""
    return _backend().is_compiled


def set_num_threads(n: int) -> None:
    """Use `n` threads from the next call on, the caller's included; results do not change."""
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, not {n}")
    _backend().set_num_threads(n)


def place(weight: Tensor) -> Tensor:
    """`weight` where the kernels can read it: as it is."""
    return weight


def pack(
    weight: Tensor | QuantWeight, *, compute: ComputeType, bias: Tensor | None = None, interleave_gate: bool = False
) -> CpuWeight:
    """Copy `weight` [N, K] into the layout that the kernels read.

    `bias` [N] is added to every product. `interleave_gate` says that the rows are [gate; up], N = 2F, and prepares for
    `linear(..., silu_mul=True)`. Raises ValueError for shapes that do not fit together.
    """
    rows = weight.out_features if isinstance(weight, QuantWeight) else weight.shape[0]
    if isinstance(weight, Tensor) and (weight.dim() != 2 or not weight.is_floating_point()):
        raise ValueError(f"a weight must be a float matrix, not {tuple(weight.shape)} of {weight.dtype}")
    if isinstance(weight, QuantWeight) and (weight.group % 32 or weight.in_features % weight.group):
        raise ValueError(f"groups of {weight.group} do not fit into {weight.in_features} elements, or 32 into a group")
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"a bias of {tuple(bias.shape)} does not fit {rows} rows")
    if interleave_gate and rows % 2:
        raise ValueError(f"{rows} rows are not a gate and an up part")
    return _backend().pack(weight, compute=compute, bias=bias, interleave_gate=interleave_gate)


def linear(
    x: Tensor,
    w: CpuWeight,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    silu_mul: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """`x` [M, K] times the weight, float32 [M, N], or [M, N / 2] with `silu_mul`.

    Before: RMSNorm of x with weight `norm` [K], if given. After: the bias, then silu(gate) * up, then `residual`.
    `out` may be `residual` itself. The weight must have been packed with `interleave_gate=silu_mul`.
    """
    assert silu_mul == w.is_gated, f"silu_mul is {silu_mul}, the weight was packed with interleave_gate={w.is_gated}"
    return w.linear(x, norm, eps, residual, out)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x` [M, K] over its root mean square, times `weight` [K]: float32 [M, K]."""
    return _backend().rms_norm(x, weight, eps)


def embedding(ids: Tensor, w: CpuWeight) -> Tensor:
    """Rows `ids` (int32 or int64 [T]) of the weight: float32 [T, K]; IndexError for an id without a row."""
    return w.embedding(ids)


def attention(
    qkv: Tensor,
    kv_cache: Tensor,
    layer: int,
    inputs: AttentionInputs,
    *,
    num_heads: int,
    scale: float,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    sliding_window: int = 0,
) -> Tensor:
    """Causal attention of this step's tokens over the paged cache, into which their keys and values are written first.

    `qkv` is float32 [T, (Hq + 2 Hkv) * D], `kv_cache` [num_blocks, Hkv, L, 2, block_size, D] with any strides as long
    as D lies dense. Queries and keys get an RMSNorm per head where a weight is given, then the rotation. Returns
    float32 [T, Hq * D]; zeros for tokens beyond the last request. Keys in blocks whose id is out of range do not count.
    """
    shape = AttentionShape(
        num_heads=num_heads, scale=scale, q_norm=q_norm, k_norm=k_norm, eps=eps, sliding_window=sliding_window
    )
    return _backend().attention(qkv, kv_cache, layer, inputs, shape)


def decoder_plan(layers: Sequence[DecoderLayer], shape: DecoderShape) -> DecoderPlan:
    """Make `layers` ready to run in one call per step, with the bits that the small functions give.

    Raises ValueError when the parts of a layer do not fit together.
    """
    return _backend().decoder_plan(layers, shape)
