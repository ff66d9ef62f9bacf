"""Penalties on tokens that a row already holds, from its token ids: no counts to keep, or to get wrong.

Two passes: the row's tokens are counted into a scratch row of the vocabulary's width, then the vocabulary is walked,
its logits lowered, and the scratch left empty again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op

TOKENS = 1024  # of a row that a program counts
BLOCK = 4096  # logits that a program lowers
PROMPT = tl.constexpr(1 << 30)  # in a count: the token stands in the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyColumns:
    """What is read of the state table; its columns have the same stride. # [max_rows]"""

    token_ids: Tensor  # int32 [max_rows, max_model_len]
    num_tokens: Tensor  # int32
    num_prompt: Tensor  # int32
    repetition: Tensor  # float32; 1: off
    presence: Tensor  # float32; 0: off
    frequency: Tensor  # float32; 0: off

    def arguments(self) -> dict[str, Tensor | int]:
        """Those of both kernels that say whose penalties they are."""
        return {
            "repetition_ptr": self.repetition,
            "presence_ptr": self.presence,
            "frequency_ptr": self.frequency,
            "num_rows": len(self.token_ids),
            "row_stride": self.num_tokens.stride(0),
        }


@triton.jit
def _penalties(rows_ptr, entry, repetition_ptr, presence_ptr, frequency_ptr, num_rows, row_stride):
    """The row of an entry, its penalties, and whether it has any."""
    row = tl.load(rows_ptr + entry)
    inside = (row >= 0) & (row < num_rows)
    cell = row.to(tl.int64) * row_stride
    repetition = tl.load(repetition_ptr + cell, mask=inside, other=1.0)
    presence = tl.load(presence_ptr + cell, mask=inside, other=0.0)
    frequency = tl.load(frequency_ptr + cell, mask=inside, other=0.0)
    has_any = (repetition != 1.0) | (presence != 0.0) | (frequency != 0.0)
    return row, repetition, presence, frequency, has_any


@triton.jit
def count_tokens_kernel(
    counts_ptr,
    rows_ptr,
    token_ids_ptr,
    num_tokens_ptr,
    num_prompt_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    num_rows,
    row_stride,
    max_model_len,
    vocab_size,
    TOKENS: tl.constexpr,
):
    """One program per row and part of its tokens."""
    entry = tl.program_id(0)
    row, _, _, _, has_any = _penalties(
        rows_ptr, entry, repetition_ptr, presence_ptr, frequency_ptr, num_rows, row_stride
    )
    if has_any:
        known = tl.minimum(tl.load(num_tokens_ptr + row.to(tl.int64) * row_stride), max_model_len)
        num_prompt = tl.load(num_prompt_ptr + row.to(tl.int64) * row_stride)
        position = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
        token = tl.load(token_ids_ptr + row.to(tl.int64) * max_model_len + position, mask=position < known, other=-1)
        is_token = (token >= 0) & (token < vocab_size)
        count = counts_ptr + entry.to(tl.int64) * vocab_size + token
        tl.atomic_or(count, tl.full((TOKENS,), PROMPT, tl.int32), mask=is_token & (position < num_prompt))
        tl.atomic_add(count, tl.full((TOKENS,), 1, tl.int32), mask=is_token & (position >= num_prompt))


@triton.jit
def penalise_kernel(
    logits_ptr,
    counts_ptr,
    rows_ptr,
    repetition_ptr,
    presence_ptr,
    frequency_ptr,
    num_rows,
    row_stride,
    vocab_size,
    logits_stride,
    BLOCK: tl.constexpr,
):
    """One program per row and part of the vocabulary."""
    entry = tl.program_id(0).to(tl.int64)
    _, repetition, presence, frequency, has_any = _penalties(
        rows_ptr, entry, repetition_ptr, presence_ptr, frequency_ptr, num_rows, row_stride
    )
    if has_any:
        token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = token < vocab_size
        found = tl.load(counts_ptr + entry * vocab_size + token, mask=inside, other=0)
        is_held = inside & (found != 0)
        logits = tl.load(logits_ptr + entry * logits_stride + token, mask=is_held, other=0.0)
        repeated = tl.where(logits > 0, logits / repetition, logits * repetition)
        count = found & (PROMPT - 1)
        lowered = tl.where(count > 0, frequency * count.to(tl.float32) + presence, 0.0)
        tl.store(logits_ptr + entry * logits_stride + token, repeated - lowered, mask=is_held)
        tl.store(counts_ptr + entry * vocab_size + token, 0, mask=is_held)


def penalise(
    logits: Tensor, rows: Tensor, columns: PenaltyColumns, *, longest: int, counts: Tensor
) -> tuple[Launch, ...]:
    """Lower `logits` float32 [n, V] of `rows` int32 [n] in place, as OpenAI and CTRL (Keskar et al. 2019) define it.

    repetition: tokens of prompt and output, positive logits divided and others multiplied by it; then presence:
    subtracted for each token of the output; frequency: subtracted once per occurrence in the output.
    `longest`: no row that has penalties holds more tokens; `counts` int32 [n, V] is zero before and after.
    """
    count = Launch(
        kernel=count_tokens_kernel,
        grid=(len(rows), triton.cdiv(longest, TOKENS)),
        args={
            "counts_ptr": counts,
            "rows_ptr": rows,
            "token_ids_ptr": columns.token_ids,
            "num_tokens_ptr": columns.num_tokens,
            "num_prompt_ptr": columns.num_prompt,
            **columns.arguments(),
            "max_model_len": columns.token_ids.shape[1],
            "vocab_size": logits.shape[1],
        },
        constants={"TOKENS": TOKENS},
    )
    lower = Launch(
        kernel=penalise_kernel,
        grid=(len(rows), triton.cdiv(logits.shape[1], BLOCK)),
        args={
            "logits_ptr": logits,
            "counts_ptr": counts,
            "rows_ptr": rows,
            **columns.arguments(),
            "vocab_size": logits.shape[1],
            "logits_stride": logits.stride(0),
        },
        constants={"BLOCK": BLOCK},
    )
    return count, lower


def reference(logits: Tensor, rows: Tensor, columns: PenaltyColumns) -> Tensor:
    """See `penalise`; the logits as they are afterwards."""
    after = logits.clone()
    for entry, row in enumerate(rows.tolist()):
        known = columns.token_ids[row, : int(columns.num_tokens[row])].long()
        values = after[entry]
        held = known.unique()
        strength = columns.repetition[row]
        values[held] = torch.where(values[held] > 0, values[held] / strength, values[held] * strength)
        outputs, counts = known[int(columns.num_prompt[row]) :].unique(return_counts=True)
        values[outputs] -= columns.frequency[row] * counts + columns.presence[row]
    return after


def _make_inputs(case: Case, _: torch.dtype, generator: torch.Generator) -> Inputs:
    device, vocab_size, length = generator.device, case.parameters["vocab_size"], 2100
    floats = torch.tensor(
        [[1.3, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.0, 0.7], [1.0, 0.0, 0.0], [0.6, -0.5, 1.5]], device=device
    )
    counts = torch.tensor([[length, 9], [1500, 700], [40, 40], [30, 3], [90, 50]], dtype=torch.int32, device=device)
    fields = torch.cat((floats.view(torch.int32), counts), dim=1)
    return {
        "logits": 3 * torch.randn(5, vocab_size, generator=generator, device=device),
        "rows": torch.tensor([2, 0, 4, 3, 1], dtype=torch.int32, device=device),
        "columns": PenaltyColumns(
            token_ids=torch.randint(0, vocab_size, (5, length), generator=generator, device=device).to(torch.int32),
            num_tokens=fields[:, 3],
            num_prompt=fields[:, 4],
            repetition=fields.view(torch.float32)[:, 0],
            presence=fields.view(torch.float32)[:, 1],
            frequency=fields.view(torch.float32)[:, 2],
        ),
        "counts": torch.zeros(5, vocab_size, dtype=torch.int32, device=device),
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    columns = inputs["columns"]
    longest = columns.token_ids.shape[1]
    return penalise(inputs["logits"], inputs["rows"], columns, longest=longest, counts=inputs["counts"])


OP = Op(
    name="penalise",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=lambda inputs: {
        "logits": reference(inputs["logits"], inputs["rows"], inputs["columns"]),
        "counts": torch.zeros_like(inputs["counts"]),
    },
    outputs=(),
    cases=tuple(Case(name=f"vocabulary-{size}", parameters={"vocab_size": size}) for size in (50, 4999)),
    dtypes=(torch.float32,),
)
