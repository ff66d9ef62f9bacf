"""Which program of the attention kernel works on what: equal shares of a step's work, whatever its requests look like.

The work is cut into *units*: one tile of queries against one block of keys. All units of a step stand in one line, head
after head, tile after tile; each program takes the same number of them. So one request of 128K tokens among short ones
keeps no program waiting, and a tile that is shared by several programs leaves partial results that are merged.

```
head 0: │ tile 0 ▇▇▇▇▇▇▇▇▇▇▇▇▇▇▇│ tile 1 ▇▇│ tile 2 ▇▇▇│  head 1: │ …
            program 0 │ program 1 │ program 2      │ program 3
```

The schedule is made on the device, once per step, and serves all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch

LANES = 1024  # requests, tiles or programs that are looked at together
HEADER = 4  # numbers before the columns: tiles, units of one head, units per program, and one unused


@dataclass(frozen=True, slots=True, kw_only=True)
class TileShape:
    """How a step is cut: constants of the compiled kernels."""

    tokens: int  # of one request in a tile of queries
    keys: int  # in a block of keys
    fewest_units: int = 4  # that are worth a program: merging costs about as much


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSchedule:
    """The memory of a schedule. # int32"""

    tile: TileShape
    max_tiles: int
    num_programs: int
    header: Tensor  # [HEADER]
    request_tiles: Tensor  # [max_requests + 1] tiles before those of a request
    tile_request: Tensor  # [max_tiles]
    tile_units: Tensor  # [max_tiles + 1] units of one head before those of a tile
    program_tile: Tensor  # [num_programs] where it begins
    program_head: Tensor  # [num_programs]
    program_unit: Tensor  # [num_programs] of the tile

    @classmethod
    def allocate(
        cls, tile: TileShape, *, max_requests: int, max_tokens: int, num_programs: int, device: torch.device
    ) -> AttentionSchedule:
        """For steps of at most so many requests and tokens."""
        max_tiles = max_requests + max_tokens // tile.tokens

        def column(length: int) -> Tensor:
            return torch.zeros(length, dtype=torch.int32, device=device)

        return cls(
            tile=tile,
            max_tiles=max_tiles,
            num_programs=num_programs,
            header=column(HEADER),
            request_tiles=column(max_requests + 1),
            tile_request=column(max_tiles),
            tile_units=column(max_tiles + 1),
            program_tile=column(num_programs),
            program_head=column(num_programs),
            program_unit=column(num_programs),
        )

    def programs(self) -> dict[str, Tensor]:
        """The arguments that tell a program of the attention kernel where it begins."""
        return {
            "program_tile_ptr": self.program_tile,
            "program_head_ptr": self.program_head,
            "program_unit_ptr": self.program_unit,
        }

    def make(self, query_start_loc: Tensor, seq_lens: Tensor, *, num_kv_heads: int, window: int) -> Launch:
        """Schedule the step of these requests: `query_start_loc` int32 [R + 1], `seq_lens` int32 [R].

        `window`: keys that a query sees, itself included; 0 for all.
        """
        return Launch(
            kernel=schedule_kernel,
            grid=(1,),
            args={
                "query_start_loc_ptr": query_start_loc,
                "seq_lens_ptr": seq_lens,
                "header_ptr": self.header,
                "request_tiles_ptr": self.request_tiles,
                "tile_request_ptr": self.tile_request,
                "tile_units_ptr": self.tile_units,
                **self.programs(),
                "num_requests": len(seq_lens),
                "num_programs": self.num_programs,
                "num_kv_heads": num_kv_heads,
                "window": window,
            },
            constants={
                "TOKENS": self.tile.tokens,
                "KEYS": self.tile.keys,
                "FEWEST_UNITS": self.tile.fewest_units,
                "LANES": min(LANES, triton.next_power_of_2(max(16, self.max_tiles, self.num_programs))),
                "REQUEST_STEPS": len(self.request_tiles).bit_length(),
                "TILE_STEPS": self.max_tiles.bit_length(),
            },
        )


@triton.jit
def first_key(first_position, window):
    """The oldest key that a query at that position sees."""
    return tl.where(window > 0, tl.maximum(first_position - window + 1, 0), 0)


@triton.jit
def last_at_most(column_ptr, length, value, STEPS: tl.constexpr):
    """The last of `length` ascending entries that is at most `value`, by halving; `value` may be many numbers."""
    low = value * 0
    high = low + length - 1
    for _ in tl.static_range(STEPS):
        middle = (low + high + 1) // 2
        is_at_most = tl.load(column_ptr + middle) <= value
        low = tl.where(is_at_most, middle, low)
        high = tl.where(is_at_most, high, tl.maximum(middle - 1, low))
    return low


@triton.jit(do_not_specialize=["num_requests"])
def schedule_kernel(
    query_start_loc_ptr,
    seq_lens_ptr,
    header_ptr,
    request_tiles_ptr,
    tile_request_ptr,
    tile_units_ptr,
    program_tile_ptr,
    program_head_ptr,
    program_unit_ptr,
    num_requests,
    num_programs,
    num_kv_heads,
    window,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    FEWEST_UNITS: tl.constexpr,
    LANES: tl.constexpr,
    REQUEST_STEPS: tl.constexpr,
    TILE_STEPS: tl.constexpr,
):
    """One program: first the tiles of each request, then the units of each tile, then where each program begins."""
    lane = tl.arange(0, LANES)
    num_tiles = 0
    for first in range(0, num_requests, LANES):
        request = first + lane
        inside = request < num_requests
        begin = tl.load(query_start_loc_ptr + request, mask=inside, other=0)
        length = tl.load(query_start_loc_ptr + request + 1, mask=inside, other=0) - begin
        tiles = (length + TOKENS - 1) // TOKENS
        before = num_tiles + tl.cumsum(tiles, 0) - tiles
        tl.store(request_tiles_ptr + request, before, mask=inside)
        num_tiles += tl.sum(tiles, 0)
    tl.store(request_tiles_ptr + num_requests, num_tiles)
    tl.debug_barrier()  # what was stored is read by other threads
    num_units = 0
    for first in range(0, num_tiles, LANES):
        tile = first + lane
        inside = tile < num_tiles
        request = last_at_most(request_tiles_ptr, num_requests, tl.where(inside, tile, 0), REQUEST_STEPS)
        index = tile - tl.load(request_tiles_ptr + request)
        begin = tl.load(query_start_loc_ptr + request)
        length = tl.load(query_start_loc_ptr + request + 1) - begin
        start = tl.load(seq_lens_ptr + request) - length  # position of the request's first query
        end = start + tl.minimum((index + 1) * TOKENS, length)
        units = (end + KEYS - 1) // KEYS - first_key(start + index * TOKENS, window) // KEYS
        units = tl.where(inside, units, 0)
        tl.store(tile_request_ptr + tile, request, mask=inside)
        tl.store(tile_units_ptr + tile, num_units + tl.cumsum(units, 0) - units, mask=inside)
        num_units += tl.sum(units, 0)
    tl.store(tile_units_ptr + num_tiles, num_units)
    tl.debug_barrier()
    total = num_units * num_kv_heads
    share = tl.maximum((total + num_programs - 1) // num_programs, FEWEST_UNITS)
    tl.store(header_ptr, num_tiles)
    tl.store(header_ptr + 1, num_units)
    tl.store(header_ptr + 2, share)
    for first in range(0, num_programs, LANES):
        program = first + lane
        inside = (program < num_programs) & (num_units > 0)
        unit = tl.where(inside, tl.minimum(program * share, total - 1), 0)
        head = unit // tl.maximum(num_units, 1)
        unit -= head * num_units
        tile = last_at_most(tile_units_ptr, tl.maximum(num_tiles, 1), unit, TILE_STEPS)
        tl.store(program_tile_ptr + program, tile, mask=inside)
        tl.store(program_head_ptr + program, head, mask=inside)
        tl.store(program_unit_ptr + program, unit - tl.load(tile_units_ptr + tile), mask=inside)
