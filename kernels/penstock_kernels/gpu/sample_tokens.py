"""One token for each row: temperature, top-k, min-p and top-p with parameters and seeds of its own, without sorting.

What a row's filters keep is a beginning of its tokens in order of falling weight, so one weight is sought, digit by
digit of its bits: each pass over the vocabulary counts, or weighs, what three candidates would keep. The token is then
drawn in a single pass, as the largest `weight / exponential`, with random numbers that depend on seed, output index and
token id alone: never on the batch around the row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op

DIGITS = 15  # pairs of bits: weights are at most 1.0, whose float32 has its highest bit at 29
FAILED = -1  # instead of a token, where logits are not finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Parameters of each row. # all [n]"""

    temperature: Tensor  # float32; 0: the likeliest token, the lowest id among equals
    top_k: Tensor  # int32; 0: off
    top_p: Tensor  # float32; 1: off; share of what top_k and min_p leave
    min_p: Tensor  # float32; 0: off; share of the likeliest token's probability
    seed: Tensor  # int64
    index: Tensor  # int32: how many outputs the row has had


@triton.jit
def _weights(start, first, vocab_size, largest, temperature, BLOCK: tl.constexpr):
    """Of a block of tokens: `exp((logit - largest) / temperature)`, 0 beyond the vocabulary."""
    column = first + tl.arange(0, BLOCK)
    logits = tl.load(start + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
    return tl.exp((logits - largest) / temperature)


@triton.jit
def _threshold(
    start,
    vocab_size,
    largest,
    temperature,
    floor,
    goal,
    IS_COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """Bits of the largest weight such that tokens of at least it, and `floor`, number or weigh `goal`; 0: none do."""
    bits = 0
    for step in range(DIGITS):
        shift = 2 * (DIGITS - 1 - step)
        one = tl.zeros((BLOCK,), tl.float32)
        two = tl.zeros((BLOCK,), tl.float32)
        three = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, vocab_size, BLOCK):
            weights = _weights(start, first, vocab_size, largest, temperature, BLOCK)
            found = weights.to(tl.int32, bitcast=True)
            amount = tl.where(weights >= floor, 1.0 if IS_COUNT else weights, 0.0)
            one += tl.where(found >= bits + (1 << shift), amount, 0.0)
            two += tl.where(found >= bits + (2 << shift), amount, 0.0)
            three += tl.where(found >= bits + (3 << shift), amount, 0.0)
        digit = (tl.sum(one, 0) >= goal).to(tl.int32) + (tl.sum(two, 0) >= goal) + (tl.sum(three, 0) >= goal)
        bits += digit << shift
    return bits


@triton.jit
def _above(start, vocab_size, largest, temperature, bits, BLOCK: tl.constexpr):
    """Number and weight of the tokens that weigh more than `bits`, and number of those that weigh just that."""
    count = tl.zeros((BLOCK,), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    equals = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, vocab_size, BLOCK):
        weights = _weights(start, first, vocab_size, largest, temperature, BLOCK)
        found = weights.to(tl.int32, bitcast=True)
        is_above = found > bits
        count += tl.where(is_above, 1.0, 0.0)
        mass += tl.where(is_above, weights, 0.0)
        equals += tl.where(found == bits, 1.0, 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0), tl.sum(equals, 0)


@triton.jit
def sample_tokens_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seed_ptr,
    index_ptr,
    token_ids_ptr,
    vocab_size,
    row_stride,
    BLOCK: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    start = logits_ptr + row * row_stride
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    best_id = tl.full((BLOCK,), 2147483647, tl.int32)
    is_broken = tl.zeros((BLOCK,), tl.int32)
    for first in range(0, vocab_size, BLOCK):
        column = first + tl.arange(0, BLOCK)
        logits = tl.load(start + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
        is_broken |= ((logits != logits) | (logits == float("inf"))).to(tl.int32)
        is_better = logits > best
        best = tl.where(is_better, logits, best)
        best_id = tl.where(is_better, column, best_id)
    largest = tl.max(best, 0)
    token = tl.min(tl.where(best == largest, best_id, 2147483647), 0)
    temperature = tl.load(temperature_ptr + row)
    if (tl.max(is_broken, 0) > 0) | (largest == float("-inf")):
        token = -1
    elif temperature > 0:
        top_k = tl.load(top_k_ptr + row)
        top_p = tl.load(top_p_ptr + row)
        floor = tl.load(min_p_ptr + row)
        bits = 0  # of the lightest weight that is kept
        equals = vocab_size * 1.0  # tokens of just that weight that are kept, lowest ids first
        if (top_k > 0) & (top_k < vocab_size):
            bits = _threshold(start, vocab_size, largest, temperature, 0.0, top_k * 1.0, True, BLOCK, DIGITS)
            count, _, _ = _above(start, vocab_size, largest, temperature, bits, BLOCK)
            equals = top_k - count
        floor_bits = floor.to(tl.int32, bitcast=True)
        if floor_bits > bits:
            bits = floor_bits
            equals = vocab_size * 1.0
        if top_p < 1.0:
            _, mass, exact = _above(start, vocab_size, largest, temperature, bits, BLOCK)
            lightest = tl.cast(bits, tl.float32, bitcast=True)
            goal = top_p * (mass + tl.minimum(equals, exact) * lightest)
            nucleus = _threshold(start, vocab_size, largest, temperature, lightest, goal, False, BLOCK, DIGITS)
            if nucleus >= bits:
                _, mass, _ = _above(start, vocab_size, largest, temperature, nucleus, BLOCK)
                share = tl.ceil((goal - mass) / tl.maximum(nucleus.to(tl.float32, bitcast=True), 1e-37))
                equals = tl.maximum(share, 1.0) if nucleus > bits else tl.minimum(tl.maximum(share, 1.0), equals)
                bits = nucleus
        seed = tl.load(seed_ptr + row) + tl.load(index_ptr + row).to(tl.int64) * -7046029254386353131
        seen = 0.0
        best = tl.full((BLOCK,), -1.0, tl.float32)
        best_id = tl.full((BLOCK,), 2147483647, tl.int32)
        for first in range(0, vocab_size, BLOCK):
            column = first + tl.arange(0, BLOCK)
            weights = _weights(start, first, vocab_size, largest, temperature, BLOCK)
            found = weights.to(tl.int32, bitcast=True)
            is_equal = tl.where((found == bits) & (column < vocab_size), 1.0, 0.0)
            before = seen + tl.cumsum(is_equal, 0) - is_equal
            seen += tl.sum(is_equal, 0)
            is_kept = (found > bits) | ((is_equal > 0) & (before < equals))
            exponential = -tl.log(tl.maximum(tl.rand(seed, column), 1e-37))
            scores = tl.where(is_kept & (weights > 0), weights / tl.maximum(exponential, 1e-30), -1.0)
            is_better = scores > best
            best = tl.where(is_better, scores, best)
            best_id = tl.where(is_better, column, best_id)
        token = tl.min(tl.where(best == tl.max(best, 0), best_id, 2147483647), 0)
    tl.store(token_ids_ptr + row, token)


def sample_tokens(logits: Tensor, sampling: Sampling, *, token_ids: Tensor) -> Launch:
    """Write a token of each row of `logits` [n, V] into `token_ids` int32 [n]; `FAILED` where NaN, +inf or nothing but
    -inf is found."""
    shape = launch_shape("sample_tokens", dtype=logits.dtype, size=logits.shape[1], device=logits.device)
    return Launch(
        kernel=sample_tokens_kernel,
        grid=(len(logits),),
        args={
            "logits_ptr": logits,
            "temperature_ptr": sampling.temperature,
            "top_k_ptr": sampling.top_k,
            "top_p_ptr": sampling.top_p,
            "min_p_ptr": sampling.min_p,
            "seed_ptr": sampling.seed,
            "index_ptr": sampling.index,
            "token_ids_ptr": token_ids,
            "vocab_size": logits.shape[1],
            "row_stride": logits.stride(0),
        },
        constants={"BLOCK": min(shape.tile[0], triton.next_power_of_2(logits.shape[1])), "DIGITS": DIGITS},
        num_warps=shape.warps,
    )


def kept(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which tokens of one row of `logits` [V] may be drawn. # bool [V]"""
    weights = torch.exp((logits.float() - logits.float().max()) / temperature)
    order = torch.sort(weights, descending=True, stable=True).indices
    ordered = weights[order].double()
    first = len(ordered) if top_k <= 0 else min(top_k, len(ordered))
    first = min(first, max(1, int((ordered >= min_p).sum())))
    running = ordered[:first].cumsum(0)
    count = first if top_p >= 1 else min(first, int((running < top_p * running[-1]).sum()) + 1)
    result = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    result[order[:count]] = True
    return result


def reference(logits: Tensor, sampling: Sampling) -> Tensor:
    """The only token that may be drawn from each row. Raises ValueError if there are several: see `kept`."""
    found = []
    for row, values in enumerate(logits):
        is_finite = not values.isnan().any() and values.max().isfinite()
        if not is_finite:
            found.append(FAILED)
        elif sampling.temperature[row] == 0:
            found.append(int(values.float().argmax()))
        else:
            names = ("temperature", "top_k", "top_p", "min_p")
            limits = {name: getattr(sampling, name)[row].item() for name in names}
            (token,) = kept(values, **limits).nonzero().flatten().tolist()
            found.append(token)
    return torch.tensor(found, dtype=torch.int32)


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    vocab_size, count, device = case.parameters["vocab_size"], 6, generator.device
    logits = 5 * torch.randn(count, vocab_size, generator=generator, device=device)
    logits[range(count), logits.argmax(dim=1)] += 1  # no equals among the best, in low precision either
    logits[4, 3], logits[5] = float("nan"), float("-inf")
    limits = {"temperature": (0.0, 0.7, 1.0, 1.3, 1.0, 1.0), "top_p": (1.0, 1e-6, 1.0, 1.0, 0.9, 0.9)}
    limits |= {"min_p": (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)}

    def column(values: tuple[float, ...], kind: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=kind, device=device)

    return {
        "logits": logits.to(dtype),
        "sampling": Sampling(
            **{name: column(values, torch.float32) for name, values in limits.items()},
            top_k=column((0, 0, 1, 0, 5, 5), torch.int32),
            seed=column((7, -1, 2**40, 3, 4, 5), torch.int64),
            index=column((0, 1, 2, 3, 4, 5), torch.int32),
        ),
        "token_ids": torch.empty(count, dtype=torch.int32, device=device),
    }


OP = Op(
    name="sample_tokens",
    make_inputs=_make_inputs,
    launches=lambda inputs: (sample_tokens(inputs["logits"], inputs["sampling"], token_ids=inputs["token_ids"]),),
    reference=lambda inputs: {"token_ids": reference(inputs["logits"], inputs["sampling"])},
    outputs=("token_ids",),
    cases=tuple(Case(name=f"vocabulary-{size}", parameters={"vocab_size": size}) for size in (50, 4096, 9001)),
    is_exact=True,
)
