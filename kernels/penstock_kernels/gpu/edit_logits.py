"""Changes to single logits that a request asked for: biases, and stop tokens that may not come yet."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op

LANES = 128  # edits that are done at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What is read of the state table; its columns have the same stride.

    The first `num_biases` entries of a row are added to its logits, the next `num_stops` tokens cannot be sampled while
    the row has fewer than `min_total` tokens.
    """

    token_ids: Tensor  # int32 [max_rows, max_edits]
    biases: Tensor  # float32 [max_rows, max_edits]
    num_biases: Tensor  # int32 [max_rows]
    num_stops: Tensor  # int32 [max_rows]
    num_tokens: Tensor  # int32 [max_rows]
    min_total: Tensor  # int32 [max_rows]


@triton.jit
def edit_logits_kernel(
    logits_ptr,
    rows_ptr,
    token_ids_ptr,
    biases_ptr,
    num_biases_ptr,
    num_stops_ptr,
    num_tokens_ptr,
    min_total_ptr,
    num_rows,
    row_stride,
    max_edits,
    vocab_size,
    logits_stride,
    LANES: tl.constexpr,
):
    """One program per row; additions, so that a token with a bias that is also a stop token needs no order."""
    entry = tl.program_id(0)
    row = tl.load(rows_ptr + entry)
    if (row >= 0) & (row < num_rows):
        cell = row.to(tl.int64) * row_stride
        num_biases = tl.load(num_biases_ptr + cell)
        is_early = tl.load(num_tokens_ptr + cell) < tl.load(min_total_ptr + cell)
        count = num_biases + tl.where(is_early, tl.load(num_stops_ptr + cell), 0)
        edits = row.to(tl.int64) * max_edits
        for first in range(0, tl.minimum(count, max_edits), LANES):
            edit = first + tl.arange(0, LANES)
            inside = edit < count
            token = tl.load(token_ids_ptr + edits + edit, mask=inside, other=-1)
            bias = tl.load(biases_ptr + edits + edit, mask=inside & (edit < num_biases), other=float("-inf"))
            is_token = inside & (token >= 0) & (token < vocab_size)
            tl.atomic_add(logits_ptr + entry.to(tl.int64) * logits_stride + token, bias, mask=is_token)


def edit_logits(logits: Tensor, rows: Tensor, edits: Edits) -> Launch:
    """Change `logits` float32 [n, V] of `rows` int32 [n] in place; ids that are no tokens change nothing."""
    return Launch(
        kernel=edit_logits_kernel,
        grid=(len(rows),),
        args={
            "logits_ptr": logits,
            "rows_ptr": rows,
            **{f"{name}_ptr": getattr(edits, name) for name in Edits.__dataclass_fields__},
            "num_rows": len(edits.token_ids),
            "row_stride": edits.num_tokens.stride(0),
            "max_edits": edits.token_ids.shape[1],
            "vocab_size": logits.shape[1],
            "logits_stride": logits.stride(0),
        },
        constants={"LANES": LANES},
        num_warps=1,
    )


def reference(logits: Tensor, rows: Tensor, edits: Edits) -> Tensor:
    """See `edit_logits`; the logits as they are afterwards."""
    after = logits.clone()
    for entry, row in enumerate(rows.tolist()):
        num_biases = int(edits.num_biases[row])
        for edit in range(num_biases):
            token = int(edits.token_ids[row, edit])
            if 0 <= token < logits.shape[1]:
                after[entry, token] += edits.biases[row, edit]
        if edits.num_tokens[row] < edits.min_total[row]:
            stops = edits.token_ids[row, num_biases : num_biases + int(edits.num_stops[row])].long()
            after[entry, stops] = float("-inf")
    return after


def _make_inputs(_: Case, __: torch.dtype, generator: torch.Generator) -> Inputs:
    device, vocab_size = generator.device, 700
    columns = torch.tensor(
        [[300, 0, 5, 9], [200, 3, 5, 9], [0, 2, 9, 9], [0, 0, 0, 0], [1, 4, 3, 9]], dtype=torch.int32, device=device
    )
    order = torch.rand(5, vocab_size, generator=generator, device=device).argsort(dim=1).to(torch.int32)
    order[1, 201] = order[1, 0]  # a token with a bias that is a stop token too
    order[0, 5], order[0, 6] = -1, vocab_size
    return {
        "logits": torch.randn(4, vocab_size, generator=generator, device=device),
        "rows": torch.tensor([1, 4, 0, 2], dtype=torch.int32, device=device),
        "edits": Edits(
            token_ids=order[:, :310].contiguous(),
            biases=torch.randn(5, 310, generator=generator, device=device),
            num_biases=columns[:, 0],
            num_stops=columns[:, 1],
            num_tokens=columns[:, 2],
            min_total=columns[:, 3],
        ),
    }


OP = Op(
    name="edit_logits",
    make_inputs=_make_inputs,
    launches=lambda inputs: (edit_logits(inputs["logits"], inputs["rows"], inputs["edits"]),),
    reference=lambda inputs: {"logits": reference(inputs["logits"], inputs["rows"], inputs["edits"])},
    outputs=(),
    cases=(Case(name="four-rows"),),
    dtypes=(torch.float32,),
    is_exact=True,
)
