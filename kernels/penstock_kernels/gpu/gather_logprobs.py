"""The log-probability of one token of each row, and its rank, in one pass over the logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op


@triton.jit
def gather_logprobs_kernel(
    logits_ptr, token_ids_ptr, logprobs_ptr, ranks_ptr, log_totals_ptr, vocab_size, row_stride, BLOCK: tl.constexpr
):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    start = logits_ptr + row * row_stride
    chosen_id = tl.load(token_ids_ptr + row)
    is_token = (chosen_id >= 0) & (chosen_id < vocab_size)
    chosen = tl.load(start + chosen_id, mask=is_token, other=float("-inf")).to(tl.float32)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    larger = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, vocab_size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        logits = tl.load(start + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, logits)
        pivot = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(highest - pivot) + tl.exp(logits - pivot)
        highest = higher
        larger += (logits > chosen).to(tl.int32)
    largest = tl.max(highest, 0)
    log_total = largest + tl.log(tl.sum(total * tl.exp(highest - largest), 0))
    tl.store(logprobs_ptr + row, chosen - log_total)
    tl.store(ranks_ptr + row, tl.sum(larger, 0) + 1)
    tl.store(log_totals_ptr + row, log_total)


def gather_logprobs(
    logits: Tensor, token_ids: Tensor, *, logprobs: Tensor, ranks: Tensor, log_totals: Tensor
) -> Launch:
    """Of `token_ids` int32 [n] under `logits` [n, V]: natural `logprobs` float32 [n], `ranks` int32 [n] (1 is the most
    likely, equals share the better rank), and `log_totals` float32 [n], which turn any other logit into its
    log-probability."""
    shape = launch_shape("gather_logprobs", dtype=logits.dtype, size=logits.shape[1], device=logits.device)
    return Launch(
        kernel=gather_logprobs_kernel,
        grid=(len(token_ids),),
        args={
            "logits_ptr": logits,
            "token_ids_ptr": token_ids,
            "logprobs_ptr": logprobs,
            "ranks_ptr": ranks,
            "log_totals_ptr": log_totals,
            "vocab_size": logits.shape[1],
            "row_stride": logits.stride(0),
        },
        constants={"BLOCK": min(shape.tile[0], triton.next_power_of_2(logits.shape[1]))},
        num_warps=shape.warps,
    )


def reference(logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
    """See `gather_logprobs`."""
    wide = logits.float()
    chosen = wide.gather(1, token_ids.long()[:, None])
    log_totals = torch.logsumexp(wide, dim=1)
    return {
        "logprobs": chosen[:, 0] - log_totals,
        "ranks": (wide > chosen).sum(dim=1) + 1,
        "log_totals": log_totals,
    }


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    vocab_size, count, device = case.parameters["vocab_size"], 5, generator.device
    logits = 5 * torch.randn(count, vocab_size, generator=generator, device=device)
    logits[2, : vocab_size // 2] = float("-inf")  # forbidden by a grammar
    logits[3] = logits[3].round()  # many equals
    return {
        "logits": logits.to(dtype),
        "token_ids": torch.randint(vocab_size // 2, vocab_size, (count,), generator=generator, device=device).to(
            torch.int32
        ),
        "logprobs": torch.empty(count, device=device),
        "ranks": torch.empty(count, dtype=torch.int32, device=device),
        "log_totals": torch.empty(count, device=device),
    }


def _launches(inputs: Inputs) -> tuple[Launch, ...]:
    outputs = {name: inputs[name] for name in ("logprobs", "ranks", "log_totals")}
    return (gather_logprobs(inputs["logits"], inputs["token_ids"], **outputs),)


OP = Op(
    name="gather_logprobs",
    make_inputs=_make_inputs,
    launches=_launches,
    reference=lambda inputs: reference(inputs["logits"], inputs["token_ids"]),
    outputs=("logprobs", "ranks", "log_totals"),
    cases=tuple(Case(name=f"vocabulary-{size}", parameters={"vocab_size": size}) for size in (37, 4096, 9001)),
)
