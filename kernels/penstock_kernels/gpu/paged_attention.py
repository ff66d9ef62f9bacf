"""Attention over the paged cache, from one source for decode, chunked prefill and batches that mix them.

See `attention_schedule` for who computes what, and `attention_kernels` for how.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from penstock_kernels.gpu.attention_kernels import merge_kernel, paged_attention_kernel
from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.kv_layout import strides_of
from penstock_kernels.gpu.launch import Launch, operand_of
from penstock_kernels.gpu.launch_table import LaunchShape, launch_shape
from penstock_kernels.kv_scales import UNSCALED, KvScales

FEWEST_ROWS = 16  # that the matrix units take
CHUNK_ROWS = 64  # from which on Hopper's wide ones do


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionForm:
    """What differs between models, and between layers of one."""

    scale: float  # of the scores; positive
    window: int = 0  # keys that a query sees, itself included; 0 for all
    soft_cap: float = 0.0  # scores become cap * tanh(score / cap); 0 for none
    sinks: Tensor | None = None  # float32 [H]: a score of each head that takes part in the softmax, without a value
    slopes: Tensor | None = None  # float32 [H]: ALiBi, times the distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Which tokens of which requests the step holds. # int32"""

    query_start_loc: Tensor  # [R + 1]
    seq_lens: Tensor  # [R] tokens in the cache after this step, this step's included
    rows: Tensor  # [R] of the block table
    block_table: Tensor  # [max_rows, max_blocks]

    def places(self) -> dict[str, Tensor | int]:
        """The arguments that tell a kernel where a request's keys lie."""
        return {
            "seq_lens_ptr": self.seq_lens,
            "rows_ptr": self.rows,
            "block_table_ptr": self.block_table,
            "num_rows": self.block_table.shape[0],
            "max_blocks": self.block_table.shape[1],
            "table_stride": self.block_table.stride(0),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Partials:
    """Results of tiles that several programs share: two for each program."""

    values: Tensor  # float32 [2 * num_programs, rows of a tile, D]
    sums: Tensor  # float32 [2 * num_programs, rows of a tile]
    highest: Tensor  # float32 [2 * num_programs, rows of a tile], base 2

    @classmethod
    def allocate(cls, schedule: AttentionSchedule, group: int, head_dim: int, device: torch.device) -> Partials:
        """For a schedule and a model with `group` query heads for each key head."""
        shape = (2 * schedule.num_programs, rows_of(schedule.tile, group))
        values, sums, highest = (
            torch.zeros(size, dtype=torch.float32, device=device) for size in ((*shape, head_dim), shape, shape)
        )
        return cls(values=values, sums=sums, highest=highest)


def rows_of(tile: TileShape, group: int) -> int:
    """Rows of a tile: pairs of a token and a query head of the group."""
    return max(FEWEST_ROWS, tile.tokens * int(triton.next_power_of_2(group)))


def tile_for(
    *, group: int, head_dim: int, cache_dtype: torch.dtype, device: torch.device, is_decode: bool
) -> TileShape:
    """How to cut steps of a model with `group` query heads for each key head: all tokens single, or any step.

    A backend that must give the same bits for a token whatever its chunk uses the second alone.
    """
    kind = "decode" if is_decode else "chunk"
    rows, keys = launch_shape(f"paged_attention_{kind}", dtype=cache_dtype, size=head_dim, device=device).tile
    return TileShape(tokens=1 if is_decode else max(1, rows // int(triton.next_power_of_2(group))), keys=keys)


def paged_attention(
    query: Tensor,
    kv_cache: Tensor,
    layer: int,
    requests: Requests,
    form: AttentionForm,
    *,
    schedule: AttentionSchedule,
    partials: Partials | None,
    out: Tensor,
    scales: KvScales = UNSCALED,
) -> tuple[Launch, ...]:
    """Write what `query` [T, H, D] sees in one layer of the cache into `out` [T, H, D].

    The step's keys and values are in the cache already, and `schedule` was made for these requests and this window.
    Without `partials` no tile is shared: slower, but a row's bits then depend on its own request alone, and for one
    tile shape not on where its chunk begins either. Blocks outside the cache are not read: their tokens count as zeros.
    """
    num_kv_heads = kv_cache.shape[1]
    constants = _constants(query, num_kv_heads, schedule.tile)
    tiles = _tiles(requests, schedule, partials, scales.value, out)
    shape = _shape_for(kv_cache, schedule.tile, constants["ROWS"])
    attend = Launch(
        kernel=paged_attention_kernel,
        grid=(schedule.num_programs if partials is not None else schedule.max_tiles * num_kv_heads,),
        args={
            **tiles,
            **strides_of(kv_cache, layer),
            **requests.places(),
            "query_ptr": query,
            **schedule.programs(),
            "sinks_ptr": form.sinks,
            "slopes_ptr": form.slopes,
            "scale": form.scale * scales.key,
            "window": form.window,
            "soft_cap": form.soft_cap,
        },
        constants={
            **constants,
            "KEYS": schedule.tile.keys,
            "BLOCK_SIZE": kv_cache.shape[4],
            "IS_SPLIT": partials is not None,
            **_features(query.dtype, kv_cache.dtype, form),
        },
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    merge = Launch(kernel=merge_kernel, grid=(schedule.max_tiles, num_kv_heads), args=tiles, constants=constants)
    return (attend,) if partials is None else (attend, merge)


def _shape_for(kv_cache: Tensor, tile: TileShape, rows: int) -> LaunchShape:
    """Warps and stages: many rows are a chunk's, whatever their schedule is for."""
    kind = "decode" if tile.tokens == 1 and rows < CHUNK_ROWS else "chunk"
    return launch_shape(f"paged_attention_{kind}", dtype=kv_cache.dtype, size=kv_cache.shape[5], device=kv_cache.device)


def _tiles(
    requests: Requests, schedule: AttentionSchedule, partials: Partials | None, value_scale: float, out: Tensor
) -> dict[str, Tensor | float | None]:
    """The arguments that both kernels take."""
    return {
        "out_ptr": out,
        "value_scale": value_scale,
        "query_start_loc_ptr": requests.query_start_loc,
        "header_ptr": schedule.header,
        "request_tiles_ptr": schedule.request_tiles,
        "tile_request_ptr": schedule.tile_request,
        "tile_units_ptr": schedule.tile_units,
        "values_ptr": None if partials is None else partials.values,
        "sums_ptr": None if partials is None else partials.sums,
        "highest_ptr": None if partials is None else partials.highest,
    }


def _constants(query: Tensor, num_kv_heads: int, tile: TileShape) -> dict[str, int]:
    """The constants of both kernels."""
    num_heads, head_dim = query.shape[1:]
    group = num_heads // num_kv_heads
    return {
        "NUM_KV_HEADS": num_kv_heads,
        "GROUP": group,
        "GROUP_ROWS": triton.next_power_of_2(group),
        "ROWS": rows_of(tile, group),
        "TOKENS": tile.tokens,
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
    }


def _features(dtype: torch.dtype, cache_dtype: torch.dtype, form: AttentionForm) -> dict[str, object]:
    """What of the kernel a model needs, so that the rest is not compiled."""
    # float8 becomes float16 in one instruction for two elements, and bfloat16 in five
    is_half = cache_dtype == torch.float8_e4m3fn and dtype == torch.bfloat16
    return {
        "HAS_WINDOW": form.window > 0,
        "HAS_SOFT_CAP": form.soft_cap > 0,
        "HAS_SINKS": form.sinks is not None,
        "HAS_SLOPES": form.slopes is not None,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "OPERAND": operand_of(torch.float16 if is_half else dtype),
    }
