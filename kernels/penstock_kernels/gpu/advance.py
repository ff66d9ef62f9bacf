"""After a step: what it computed is counted, and what it sampled is appended, so that the next step finds it there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op

NO_SAMPLE = -1  # instead of a place among the sampled tokens, for a request that has known tokens left


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is changed of the state table. # int32; the two columns have the same stride"""

    token_ids: Tensor  # [max_rows, max_model_len]
    num_tokens: Tensor  # [max_rows]
    num_computed: Tensor  # [max_rows]


@triton.jit
def advance_kernel(
    token_ids_ptr,
    num_tokens_ptr,
    num_computed_ptr,
    rows_ptr,
    counts_ptr,
    places_ptr,
    sampled_ptr,
    num_rows,
    row_stride,
    max_model_len,
):
    """One program per request."""
    request = tl.program_id(0)
    row = tl.load(rows_ptr + request)
    if (row >= 0) & (row < num_rows):
        cell = row.to(tl.int64) * row_stride
        computed = tl.load(num_computed_ptr + cell)
        tl.store(num_computed_ptr + cell, computed + tl.load(counts_ptr + request))
        place = tl.load(places_ptr + request)
        known = tl.load(num_tokens_ptr + cell)
        if (place >= 0) & (known >= 0) & (known < max_model_len):
            token = tl.maximum(tl.load(sampled_ptr + place), 0)
            tl.store(token_ids_ptr + row.to(tl.int64) * max_model_len + known, token)
            tl.store(num_tokens_ptr + cell, known + 1)


def advance(progress: Progress, rows: Tensor, counts: Tensor, places: Tensor, sampled: Tensor) -> Launch:
    """Add `counts` int32 [R] to what `rows` int32 [R] have computed, and append token `sampled[places[r]]` to each.

    `places` int32 [R]: `NO_SAMPLE` appends nothing. A row at full length drops its token; a token below 0, which stands
    for numbers that were not finite, is kept as 0. No row occurs twice; one outside the table changes nothing.
    """
    assert progress.num_tokens.stride(0) == progress.num_computed.stride(0)
    return Launch(
        kernel=advance_kernel,
        grid=(len(rows),),
        args={
            "token_ids_ptr": progress.token_ids,
            "num_tokens_ptr": progress.num_tokens,
            "num_computed_ptr": progress.num_computed,
            "rows_ptr": rows,
            "counts_ptr": counts,
            "places_ptr": places,
            "sampled_ptr": sampled,
            "num_rows": len(progress.token_ids),
            "row_stride": progress.num_tokens.stride(0),
            "max_model_len": progress.token_ids.shape[1],
        },
        constants={},
        num_warps=1,
    )


def reference(progress: Progress, rows: Tensor, counts: Tensor, places: Tensor, sampled: Tensor) -> dict[str, Tensor]:
    """See `advance`; the three columns as they are afterwards."""
    token_ids, num_tokens, num_computed = (
        column.clone() for column in (progress.token_ids, progress.num_tokens, progress.num_computed)
    )
    for row, count, place in zip(rows.tolist(), counts.tolist(), places.tolist(), strict=True):
        if not 0 <= row < len(token_ids):
            continue
        num_computed[row] += count
        known = int(num_tokens[row])
        if place != NO_SAMPLE and known < token_ids.shape[1]:
            token_ids[row, known] = max(0, int(sampled[place]))
            num_tokens[row] += 1
    return {"token_ids": token_ids, "num_tokens": num_tokens, "num_computed": num_computed}


def _make_inputs(case: Case, _: torch.dtype, generator: torch.Generator) -> Inputs:
    count, length, device = case.parameters["count"], 40, generator.device
    fields = torch.randint(0, length, (count + 2, 8), generator=generator, device=device).to(torch.int32)
    rows = torch.randperm(count + 2, generator=generator, device=device)[:count].to(torch.int32)
    places = torch.arange(count, dtype=torch.int32, device=device).flip(0)
    if count > 4:
        fields[rows[0].long(), 3] = length
        rows[1], rows[2], places[3::4] = -1, count + 2, NO_SAMPLE
    sampled = torch.randint(-1, 9, (count,), generator=generator, device=device).to(torch.int32)
    token_ids = torch.full((count + 2, length), -7, dtype=torch.int32, device=device)
    return {
        "token_ids": token_ids,
        "num_tokens": fields[:, 3],
        "num_computed": fields[:, 5],
        "rows": rows,
        "counts": torch.arange(1, count + 1, dtype=torch.int32, device=device),
        "places": places,
        "sampled": sampled,
    }


def _arguments(inputs: Inputs) -> tuple[Progress, Tensor, Tensor, Tensor, Tensor]:
    progress = Progress(**{name: inputs[name] for name in Progress.__dataclass_fields__})
    return progress, inputs["rows"], inputs["counts"], inputs["places"], inputs["sampled"]


OP = Op(
    name="advance",
    make_inputs=_make_inputs,
    launches=lambda inputs: (advance(*_arguments(inputs)),),
    reference=lambda inputs: reference(*_arguments(inputs)),
    outputs=(),
    cases=tuple(Case(name=f"requests-{count}", parameters={"count": count}) for count in (1, 23)),
    dtypes=(torch.int32,),
    is_exact=True,
)
