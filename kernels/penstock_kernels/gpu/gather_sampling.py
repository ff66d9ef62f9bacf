"""The sampling parameters of the rows that sample in a step, from the state table into columns that stand together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op
from penstock_kernels.gpu.sample_tokens import Sampling

COLUMNS = ("temperature", "top_k", "top_p", "min_p", "seed", "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingColumns:
    """What is read of the state table, all with a stride of `row_words` words of 4 bytes. # [max_rows]"""

    temperature: Tensor  # float32
    top_k: Tensor  # int32
    top_p: Tensor  # float32
    min_p: Tensor  # float32
    seed: Tensor  # int64
    num_tokens: Tensor  # int32
    num_prompt: Tensor  # int32

    @property
    def row_words(self) -> int:
        """Words from one row to the next."""
        return self.num_tokens.stride(0)


@triton.jit
def gather_sampling_kernel(
    from_temperature_ptr,
    from_top_k_ptr,
    from_top_p_ptr,
    from_min_p_ptr,
    from_seed_ptr,
    num_tokens_ptr,
    num_prompt_ptr,
    rows_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    index_ptr,
    num_rows,
    row_words,
):
    """One program per row that samples."""
    entry = tl.program_id(0)
    row = tl.load(rows_ptr + entry)
    inside = (row >= 0) & (row < num_rows)
    cell = row.to(tl.int64) * row_words
    tl.store(temperature_ptr + entry, tl.load(from_temperature_ptr + cell, mask=inside, other=0.0))
    tl.store(top_k_ptr + entry, tl.load(from_top_k_ptr + cell, mask=inside, other=0))
    tl.store(top_p_ptr + entry, tl.load(from_top_p_ptr + cell, mask=inside, other=1.0))
    tl.store(min_p_ptr + entry, tl.load(from_min_p_ptr + cell, mask=inside, other=0.0))
    tl.store(seed_ptr + entry, tl.load(from_seed_ptr + cell // 2, mask=inside, other=0))
    known = tl.load(num_tokens_ptr + cell, mask=inside, other=0)
    tl.store(index_ptr + entry, known - tl.load(num_prompt_ptr + cell, mask=inside, other=0))


def gather_sampling(columns: SamplingColumns, rows: Tensor, out: Sampling) -> Launch:
    """Fill `out` for `rows` int32 [n]; the output index is how many tokens follow the prompt.

    A row outside the table is greedy.
    """
    return Launch(
        kernel=gather_sampling_kernel,
        grid=(len(rows),),
        args={
            **{f"from_{name}_ptr": getattr(columns, name) for name in COLUMNS[:-1]},
            "num_tokens_ptr": columns.num_tokens,
            "num_prompt_ptr": columns.num_prompt,
            "rows_ptr": rows,
            **{f"{name}_ptr": getattr(out, name) for name in COLUMNS},
            "num_rows": len(columns.num_tokens),
            "row_words": columns.row_words,
        },
        constants={},
        num_warps=1,
    )


def reference(columns: SamplingColumns, rows: Tensor) -> dict[str, Tensor]:
    """See `gather_sampling`, for rows within the table."""
    chosen = rows.long()
    found = {name: getattr(columns, name)[chosen] for name in COLUMNS[:-1]}
    return {**found, "index": columns.num_tokens[chosen] - columns.num_prompt[chosen]}


def _make_inputs(case: Case, _: torch.dtype, generator: torch.Generator) -> Inputs:
    count, device = case.parameters["count"], generator.device
    words = torch.randint(-(2**31), 2**31, (count + 3, 10), generator=generator, device=device).to(torch.int32)
    floats = words[:, 2:5].view(torch.float32)
    floats.copy_(torch.rand(count + 3, 3, generator=generator, device=device))
    columns = SamplingColumns(
        temperature=floats[:, 0],
        top_p=floats[:, 1],
        min_p=floats[:, 2],
        top_k=words[:, 5],
        seed=words.view(torch.int64)[:, 3],
        num_tokens=words[:, 8],
        num_prompt=words[:, 9],
    )
    sampling = {
        "temperature": torch.float32,
        "top_k": torch.int32,
        "top_p": torch.float32,
        "min_p": torch.float32,
        "seed": torch.int64,
        "index": torch.int32,
    }
    return {
        "columns": columns,
        "rows": torch.randperm(count + 3, generator=generator, device=device)[:count].to(torch.int32),
        **{name: torch.empty(count, dtype=dtype, device=device) for name, dtype in sampling.items()},
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    out = Sampling(**{name: inputs[name] for name in COLUMNS})
    return (gather_sampling(inputs["columns"], inputs["rows"], out),)


OP = Op(
    name="gather_sampling",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=lambda inputs: reference(inputs["columns"], inputs["rows"]),
    outputs=COLUMNS,
    cases=tuple(Case(name=f"rows-{count}", parameters={"count": count}) for count in (1, 19)),
    dtypes=(torch.int32,),
    is_exact=True,
)
