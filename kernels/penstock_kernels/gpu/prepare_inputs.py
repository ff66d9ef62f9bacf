"""From the state table and a plan to the model's input, on the device: ids, positions, slots, where requests begin.

The columns that are written may be longer than the step: what is left is padding, so that a graph that was captured for
one number of tokens serves every step of up to as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.kv_layout import NO_BLOCK, NO_SLOT
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op

LANES = 1024  # requests that are summed together
TOKENS = 128  # of one request that a program prepares


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumns:
    """What is read of the state table. # int32"""

    token_ids: Tensor  # [max_rows, max_model_len]
    num_computed: Tensor  # [max_rows], of any stride
    block_table: Tensor  # [max_rows, max_blocks]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """What is written. # T: tokens of the step and padding, R: requests"""

    input_ids: Tensor  # int32 [T]
    positions: Tensor  # int32 [T]
    slots: Tensor  # int64 [T]
    query_start_loc: Tensor  # int32 [R + 1]
    seq_lens: Tensor  # int32 [R]


@triton.jit(do_not_specialize=["num_requests", "num_tokens"])
def prepare_requests_kernel(
    rows_ptr,
    counts_ptr,
    num_computed_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    input_ids_ptr,
    positions_ptr,
    slots_ptr,
    num_requests,
    num_rows,
    row_stride,
    num_tokens,
    LANES: tl.constexpr,
):
    """One program: running sums over the requests, then what is left of the tokens as padding."""
    lane = tl.arange(0, LANES)
    before = 0
    tl.store(query_start_loc_ptr, 0)
    for first in range(0, num_requests, LANES):
        request = first + lane
        inside = request < num_requests
        count = tl.load(counts_ptr + request, mask=inside, other=0)
        row = tl.load(rows_ptr + request, mask=inside, other=0)
        is_row = inside & (row >= 0) & (row < num_rows)
        computed = tl.load(num_computed_ptr + row.to(tl.int64) * row_stride, mask=is_row, other=0)
        tl.store(seq_lens_ptr + request, computed + count, mask=inside)
        tl.store(query_start_loc_ptr + request + 1, before + tl.cumsum(count, 0), mask=inside)
        before += tl.sum(count, 0)
    for first in range(before, num_tokens, LANES):
        token = first + lane
        is_padding = token < num_tokens
        tl.store(input_ids_ptr + token, 0, mask=is_padding)
        tl.store(positions_ptr + token, 0, mask=is_padding)
        tl.store(slots_ptr + token, -1, mask=is_padding)


@triton.jit
def prepare_tokens_kernel(
    rows_ptr,
    token_ids_ptr,
    block_table_ptr,
    query_start_loc_ptr,
    seq_lens_ptr,
    input_ids_ptr,
    positions_ptr,
    slots_ptr,
    num_rows,
    max_model_len,
    max_blocks,
    BLOCK_SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """One program per request and run of its tokens."""
    request = tl.program_id(0)
    begin = tl.load(query_start_loc_ptr + request)
    count = tl.load(query_start_loc_ptr + request + 1) - begin
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < count
    row = tl.load(rows_ptr + request).to(tl.int64)
    position = tl.load(seq_lens_ptr + request) - count + token
    is_known = inside & (row >= 0) & (row < num_rows) & (position >= 0) & (position < max_model_len)
    ids = tl.load(token_ids_ptr + row * max_model_len + position, mask=is_known, other=0)
    column = position // BLOCK_SIZE
    block = tl.load(block_table_ptr + row * max_blocks + column, mask=is_known & (column < max_blocks), other=-1)
    slot = tl.where(block >= 0, block.to(tl.int64) * BLOCK_SIZE + position % BLOCK_SIZE, -1)
    tl.store(input_ids_ptr + begin + token, ids, mask=inside)
    tl.store(positions_ptr + begin + token, position, mask=inside)
    tl.store(slots_ptr + begin + token, slot, mask=inside)


def prepare_inputs(
    table: TableColumns, rows: Tensor, counts: Tensor, *, most: int, block_size: int, out: StepInputs
) -> tuple[Launch, ...]:
    """Fill `out` for a step that computes `counts` int32 [R] tokens of the requests in `rows` int32 [R].

    `most`: no count is larger. A token without a block gets `NO_SLOT`, and so does padding, which is token 0 at
    position 0. Nothing is read back by the host.
    """
    requests = Launch(
        kernel=prepare_requests_kernel,
        grid=(1,),
        args={
            "rows_ptr": rows,
            "counts_ptr": counts,
            "num_computed_ptr": table.num_computed,
            "query_start_loc_ptr": out.query_start_loc,
            "seq_lens_ptr": out.seq_lens,
            "input_ids_ptr": out.input_ids,
            "positions_ptr": out.positions,
            "slots_ptr": out.slots,
            "num_requests": len(rows),
            "num_rows": len(table.token_ids),
            "row_stride": table.num_computed.stride(0),
            "num_tokens": len(out.input_ids),
        },
        constants={"LANES": LANES},  # one kernel for all numbers of requests
    )
    tokens = Launch(
        kernel=prepare_tokens_kernel,
        grid=(len(rows), triton.cdiv(most, TOKENS)),
        args={
            "rows_ptr": rows,
            "token_ids_ptr": table.token_ids,
            "block_table_ptr": table.block_table,
            "query_start_loc_ptr": out.query_start_loc,
            "seq_lens_ptr": out.seq_lens,
            "input_ids_ptr": out.input_ids,
            "positions_ptr": out.positions,
            "slots_ptr": out.slots,
            "num_rows": len(table.token_ids),
            "max_model_len": table.token_ids.shape[1],
            "max_blocks": table.block_table.shape[1],
        },
        constants={"BLOCK_SIZE": block_size, "TOKENS": TOKENS},
        num_warps=1,
    )
    return requests, tokens


def reference(table: TableColumns, rows: Tensor, counts: Tensor, block_size: int, num_tokens: int) -> dict[str, Tensor]:
    """See `prepare_inputs`, request by request; `num_tokens` with the padding."""
    ids, positions, slots = [], [], []
    is_row = (rows >= 0) & (rows < len(table.token_ids))
    begun = torch.where(is_row, table.num_computed[(rows * is_row).long()], 0)
    for row, start, count in zip(rows.tolist(), begun.tolist(), counts.tolist(), strict=True):
        is_known = 0 <= row < len(table.token_ids)
        for position in range(start, start + count):
            block = int(table.block_table[row, position // block_size]) if is_known else NO_BLOCK
            ids.append(int(table.token_ids[row, position]) if is_known else 0)
            positions.append(position)
            slots.append(NO_SLOT if block == NO_BLOCK else block * block_size + position % block_size)
    starts = torch.tensor([0, *counts.tolist()]).cumsum(0)
    num_padding = num_tokens - len(ids)
    ids, positions, slots = (
        values + [fill] * num_padding for values, fill in ((ids, 0), (positions, 0), (slots, NO_SLOT))
    )
    return {
        "input_ids": torch.tensor(ids),
        "positions": torch.tensor(positions),
        "slots": torch.tensor(slots),
        "query_start_loc": starts,
        "seq_lens": begun + counts,
    }


def _make_inputs(case: Case, _: torch.dtype, generator: torch.Generator) -> Inputs:
    counts, block_size, device = case.parameters["counts"], 16, generator.device
    num_rows, max_model_len = len(counts) + 3, 600

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator, device=device).to(torch.int32)

    table = TableColumns(
        token_ids=integers(50_000, num_rows, max_model_len),
        num_computed=integers(max_model_len - max(counts), num_rows, case.parameters["row_stride"])[:, -1],
        block_table=integers(1 << 27, num_rows, max_model_len // block_size + 1),  # ids whose slots need 64 bits
    )
    table.block_table[1, 20:] = NO_BLOCK
    rows = torch.randperm(num_rows, generator=generator, device=device)[: len(counts)].to(torch.int32)
    if case.parameters["has_broken_rows"]:
        rows[0], rows[1] = -1, num_rows
    num_tokens = sum(counts) + case.parameters["num_padding"]
    columns = {
        name: torch.empty(length, dtype=torch.int64 if name == "slots" else torch.int32, device=device)
        for name, length in (
            ("input_ids", num_tokens),
            ("positions", num_tokens),
            ("slots", num_tokens),
            ("query_start_loc", len(counts) + 1),
            ("seq_lens", len(counts)),
        )
    }
    return {
        "table": table,
        "rows": rows,
        "counts": torch.tensor(counts, dtype=torch.int32, device=device),
        "block_size": block_size,
        **columns,
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    out = StepInputs(**{name: inputs[name] for name in StepInputs.__dataclass_fields__})
    counts = inputs["counts"]
    most = int(counts.max())
    return prepare_inputs(inputs["table"], inputs["rows"], counts, most=most, block_size=inputs["block_size"], out=out)


OP = Op(
    name="prepare_inputs",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=lambda inputs: reference(
        inputs["table"], inputs["rows"], inputs["counts"], inputs["block_size"], len(inputs["input_ids"])
    ),
    outputs=tuple(StepInputs.__dataclass_fields__),
    cases=tuple(
        Case(
            name=name,
            parameters={
                "counts": counts,
                "row_stride": row_stride,
                "num_padding": num_padding,
                "has_broken_rows": name == "broken-rows",
            },
        )
        for name, counts, row_stride, num_padding in (
            ("decode", (1,) * 19, 1, 0),
            ("mixed", (1, 300, 1, 17, 128), 1, 0),
            ("one", (1,), 1, 0),
            ("padded", (1, 30, 7), 16, 58),
            ("padded-far", (1,), 2, 1500),
            ("broken-rows", (2, 3, 4), 1, 0),
        )
    ),
    dtypes=(torch.int32,),
    is_exact=True,
)
