"""The kernels of `paged_attention`: one that attends, one that merges what several programs found of a tile.

Rows of a tile are (token, query head of the group) pairs, so grouped heads read their keys once. The highest score is
kept in base 2 (`exp2` is one instruction); sums are in float32. Only blocks of keys at the diagonal and at a window's
edge are masked, and masked or not a score goes through the same instructions, so a row's bits do not depend on it.

Expected on an H200 for heads of 128 in bfloat16, from the code compiled for sm_90 and to be measured:
- Decoding, 85 % of the memory's bandwidth. Three programs share a multiprocessor (146 registers, 72 KB); with two
  blocks of keys and values of each under way, 190 KB are, where the memory's latency asks for 30.
- Chunks in tiles of 128 rows, 400 to 500 TFLOP/s. A block of 64 keys takes the matrix units 1024 clocks, and 8 warps of
  500 instructions each take 1000 to issue, which overlaps in part: softmax is what bounds it. One program has the
  multiprocessor alone (248 registers of 255, none spilled; 128 KB: three blocks of keys and of values).
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from penstock_kernels.gpu.attention_schedule import first_key

LOG2_E = tl.constexpr(math.log2(math.e))


@triton.jit
def paged_attention_kernel(
    query_ptr,
    out_ptr,
    kv_ptr,
    num_blocks,
    block_stride,
    head_stride,
    plane_stride,
    query_start_loc_ptr,
    seq_lens_ptr,
    rows_ptr,
    block_table_ptr,
    num_rows,
    max_blocks,
    table_stride,
    header_ptr,
    request_tiles_ptr,
    tile_request_ptr,
    tile_units_ptr,
    program_tile_ptr,
    program_head_ptr,
    program_unit_ptr,
    values_ptr,
    sums_ptr,
    highest_ptr,
    sinks_ptr,
    slopes_ptr,
    scale,
    value_scale,
    window,
    soft_cap,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """One program: its share of the units, tile by tile."""
    program = tl.program_id(0)
    num_tiles = tl.load(header_ptr)
    num_units = tl.load(header_ptr + 1)
    if IS_SPLIT:
        share = tl.load(header_ptr + 2)
        left = tl.minimum(share, num_units * NUM_KV_HEADS - program * share)
        tile = tl.load(program_tile_ptr + program)
        head = tl.load(program_head_ptr + program)
        unit = tl.load(program_unit_ptr + program)
    else:  # one tile of one head each, from its first key to its last, so that its bits depend on nothing else
        tile = program // NUM_KV_HEADS
        head = program % NUM_KV_HEADS
        unit = 0
        left = 0
        if tile < num_tiles:
            left = tl.load(tile_units_ptr + tile + 1) - tl.load(tile_units_ptr + tile)
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, BLOCK_D)
    key = tl.arange(0, KEYS)
    is_dim = dim < HEAD_DIM
    to_base_2 = LOG2_E if HAS_SOFT_CAP else scale * LOG2_E
    while left > 0:
        units = tl.load(tile_units_ptr + tile + 1) - tl.load(tile_units_ptr + tile)
        count = tl.minimum(units - unit, left)
        request = tl.load(tile_request_ptr + tile)
        begin = tl.load(query_start_loc_ptr + request)
        length = tl.load(query_start_loc_ptr + request + 1) - begin
        start = tl.load(seq_lens_ptr + request) - length
        first_token = (tile - tl.load(request_tiles_ptr + request)) * TOKENS
        end = start + tl.minimum(first_token + TOKENS, length)
        table_row = tl.load(rows_ptr + request)
        is_table = (table_row >= 0) & (table_row < num_rows)
        num_columns = tl.where(is_table, max_blocks, 0)
        table = block_table_ptr + tl.where(is_table, table_row, 0).to(tl.int64) * table_stride
        token = first_token + row // GROUP_ROWS
        query_head = head * GROUP + row % GROUP_ROWS
        is_row = (token < length) & (row % GROUP_ROWS < GROUP) & (row // GROUP_ROWS < TOKENS)
        position = start + token
        place = ((begin + token).to(tl.int64) * NUM_KV_HEADS * GROUP + query_head) * HEAD_DIM
        inside = is_row[:, None] & is_dim[None, :]
        query = tl.load(query_ptr + place[:, None] + dim[None, :], mask=inside, other=0.0).to(OPERAND)
        highest = tl.full((ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((ROWS,), tl.float32)
        values = tl.zeros((ROWS, BLOCK_D), tl.float32)
        if HAS_SINKS:
            if unit == 0:
                highest = tl.load(sinks_ptr + query_head, mask=is_row, other=0.0) * LOG2_E
                total += 1.0
        if HAS_SLOPES:
            slope = tl.load(slopes_ptr + query_head, mask=is_row, other=0.0) * LOG2_E / to_base_2
        cache = kv_ptr + head.to(tl.int64) * head_stride
        first_block = first_key(start + first_token, window) // KEYS + unit
        past_whole = (start + first_token + 1) // KEYS  # blocks before it lie before every query of the tile
        first_whole = (end - window + KEYS - 1) // KEYS if HAS_WINDOW else 0
        column = first_block * KEYS + key
        ahead = column // BLOCK_SIZE
        page = tl.load(table + ahead, mask=(column < end) & (ahead < num_columns), other=-1)
        for block in range(first_block, first_block + count):
            column = block * KEYS + key
            is_key = (column < end) & (page >= 0) & (page < num_blocks)
            place_in_cache = tl.where(is_key, page, 0).to(tl.int64) * block_stride + (column % BLOCK_SIZE) * HEAD_DIM
            ahead = (column + KEYS) // BLOCK_SIZE  # ids come before they are needed, so that no load waits for a load
            page = tl.load(table + ahead, mask=(column + KEYS < end) & (ahead < num_columns), other=-1)
            memory = cache + place_in_cache[:, None] + dim[None, :]
            is_there = is_key[:, None] & (is_dim[None, :] | (HEAD_DIM == BLOCK_D))
            keys = tl.load(memory, mask=is_there, other=0.0).to(OPERAND)
            scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION)
            if HAS_SOFT_CAP:
                capped = tl.exp2(tl.minimum(tl.maximum(scores * (scale / soft_cap * 2.0 * LOG2_E), -60.0), 60.0))
                scores = soft_cap * (1.0 - 2.0 / (capped + 1.0))
            if HAS_SLOPES:
                scores -= slope[:, None] * (position[:, None] - column[None, :])
            if (block >= past_whole) | (block < first_whole):
                distance = position[:, None] - column[None, :]
                is_seen = distance >= 0
                if HAS_WINDOW:
                    is_seen &= distance < window
                scores = tl.where(is_seen, scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1) * to_base_2)
            pivot = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: -inf minus -inf is NaN
            weights = tl.exp2(tl.fma(scores, to_base_2, -pivot[:, None]))
            decay = tl.exp2(highest - pivot)
            total = total * decay + tl.sum(weights, 1)
            part = tl.load(memory + plane_stride, mask=is_there, other=0.0).to(OPERAND)
            values = tl.dot(weights.to(OPERAND), part, values * decay[:, None], input_precision=PRECISION)
            highest = higher
        if not IS_SPLIT or count == units:
            values = values * (value_scale / tl.where(total == 0.0, 1.0, total))[:, None]
            tl.store(out_ptr + place[:, None] + dim[None, :], values.to(out_ptr.dtype.element_ty), mask=inside)
        else:
            partial = (2 * program + (unit == 0).to(tl.int32)).to(tl.int64) * ROWS + row
            tl.store(values_ptr + partial[:, None] * HEAD_DIM + dim[None, :], values, mask=is_dim[None, :])
            tl.store(sums_ptr + partial, total)
            tl.store(highest_ptr + partial, highest)
        left -= count
        unit = 0
        tile += 1
        if tile == num_tiles:
            tile = 0
            head += 1


@triton.jit
def merge_kernel(
    out_ptr,
    query_start_loc_ptr,
    header_ptr,
    request_tiles_ptr,
    tile_request_ptr,
    tile_units_ptr,
    values_ptr,
    sums_ptr,
    highest_ptr,
    value_scale,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program per tile and head: nothing to do unless several programs shared it."""
    tile = tl.program_id(0)
    head = tl.program_id(1)
    if tile < tl.load(header_ptr):
        num_units = tl.load(header_ptr + 1)
        share = tl.load(header_ptr + 2)
        begin_unit = head * num_units + tl.load(tile_units_ptr + tile)
        end_unit = head * num_units + tl.load(tile_units_ptr + tile + 1)
        first = begin_unit // share
        last = (end_unit - 1) // share
        if first != last:
            row = tl.arange(0, ROWS)
            dim = tl.arange(0, BLOCK_D)
            is_dim = dim < HEAD_DIM
            highest = tl.full((ROWS,), float("-inf"), tl.float32)
            total = tl.zeros((ROWS,), tl.float32)
            values = tl.zeros((ROWS, BLOCK_D), tl.float32)
            for program in range(first, last + 1):
                partial = (2 * program + (program == first).to(tl.int32)).to(tl.int64) * ROWS + row
                part_highest = tl.load(highest_ptr + partial)
                higher = tl.maximum(highest, part_highest)
                pivot = tl.where(higher == float("-inf"), 0.0, higher)
                decay = tl.exp2(highest - pivot)
                weight = tl.exp2(part_highest - pivot)
                part = tl.load(values_ptr + partial[:, None] * HEAD_DIM + dim[None, :], mask=is_dim[None, :], other=0.0)
                values = values * decay[:, None] + part * weight[:, None]
                total = total * decay + tl.load(sums_ptr + partial) * weight
                highest = higher
            request = tl.load(tile_request_ptr + tile)
            begin = tl.load(query_start_loc_ptr + request)
            length = tl.load(query_start_loc_ptr + request + 1) - begin
            token = (tile - tl.load(request_tiles_ptr + request)) * TOKENS + row // GROUP_ROWS
            is_row = (token < length) & (row % GROUP_ROWS < GROUP) & (row // GROUP_ROWS < TOKENS)
            query_head = head * GROUP + row % GROUP_ROWS
            place = ((begin + token).to(tl.int64) * NUM_KV_HEADS * GROUP + query_head) * HEAD_DIM
            values = values * (value_scale / tl.where(total == 0.0, 1.0, total))[:, None]
            tl.store(
                out_ptr + place[:, None] + dim[None, :],
                values.to(out_ptr.dtype.element_ty),
                mask=is_row[:, None] & is_dim[None, :],
            )
