"""Attention by our own kernel, on any GPU that Triton knows: the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from penstock.attention.backend import AttentionNeeds, ForwardBatch
from penstock_kernels.gpu.attention_schedule import AttentionSchedule
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention, tile_for
from penstock_kernels.kv_scales import UNSCALED, KvScales

PROGRAMS_PER_PROCESSOR = 2
INTERPRETED_PROGRAMS = 8  # where there is no GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """The memory for steps that are cut into tiles of one shape."""

    schedules: Mapping[int, AttentionSchedule]  # window -> the schedule of the layers that have it
    partials: Partials | None  # of whichever layer runs; None: no tile is shared

    @property
    def num_bytes(self) -> int:
        """Of all its tensors."""
        parts = [getattr(owner, field.name) for owner in self.schedules.values() for field in fields(owner)]
        if self.partials is not None:
            parts += [getattr(self.partials, field.name) for field in fields(self.partials)]
        return sum(part.nbytes for part in parts if isinstance(part, Tensor))


class TritonAttention:
    """A schedule for each step and distinct window; all memory is taken at once."""

    name = "triton"
    is_capturable = True

    def __init__(self, needs: AttentionNeeds) -> None:
        self._needs = needs
        self._group = needs.num_heads // needs.num_kv_heads
        self._chunks = self._tiling(is_decode=False)
        # a token's bits may not depend on what stands beside it: one shape for every step
        self._decode = self._chunks if needs.is_deterministic else self._tiling(is_decode=True)

    def _tiling(self, *, is_decode: bool) -> Tiling:
        needs = self._needs
        tile = tile_for(
            group=self._group,
            head_dim=needs.head_dim,
            cache_dtype=needs.kv_dtype,
            device=needs.device,
            is_decode=is_decode,
        )
        schedules = {
            window: AttentionSchedule.allocate(
                tile,
                max_requests=needs.max_requests,
                max_tokens=0 if is_decode else needs.max_tokens,
                num_programs=num_programs(needs.device),
                device=needs.device,
            )
            for window in dict.fromkeys(needs.windows)
        }
        if needs.is_deterministic:
            return Tiling(schedules=schedules, partials=None)
        partials = Partials.allocate(next(iter(schedules.values())), self._group, needs.head_dim, needs.device)
        return Tiling(schedules=schedules, partials=partials)

    @property
    def num_bytes(self) -> int:
        """See `AttentionBackend.num_bytes`."""
        return self._chunks.num_bytes + (0 if self._decode is self._chunks else self._decode.num_bytes)

    def prepare(self, batch: ForwardBatch) -> None:
        """See `AttentionBackend.prepare`."""
        for window, schedule in self._tiling_of(batch).schedules.items():
            schedule.make(
                batch.query_start_loc, batch.seq_lens, num_kv_heads=self._needs.num_kv_heads, window=window
            ).run()

    def attend(self, layer: int, query: Tensor, batch: ForwardBatch, out: Tensor, scales: KvScales = UNSCALED) -> None:
        """See `AttentionBackend.attend`."""
        tiling, window = self._tiling_of(batch), self._needs.windows[layer]
        requests = Requests(
            query_start_loc=batch.query_start_loc,
            seq_lens=batch.seq_lens,
            rows=batch.rows,
            block_table=batch.block_table,
        )
        for launch in paged_attention(
            query,
            batch.kv_cache,
            layer,
            requests,
            AttentionForm(scale=self._needs.scale, window=window),
            schedule=tiling.schedules[window],
            partials=tiling.partials,
            out=out,
            scales=scales,
        ):
            launch.run()

    def _tiling_of(self, batch: ForwardBatch) -> Tiling:
        return self._decode if batch.is_decode else self._chunks


def num_programs(device: torch.device) -> int:
    """Programs among which a step is shared out."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_PER_PROCESSOR * int(torch.cuda.get_device_properties(device).multi_processor_count)
