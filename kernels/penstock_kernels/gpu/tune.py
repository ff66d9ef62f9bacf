"""`python -m penstock_kernels.gpu.tune`: measure on the GPU of this machine how kernels are best cut."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from triton.errors import TritonError

from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.fixed_matmul import fixed_matmul
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import TABLE, Entry, LaunchShape, capability_of, table, text_of
from penstock_kernels.gpu.matvec import matvec
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention

SECONDS = 120.0
REPETITIONS = 10  # between two looks at the clock
INTERPRETED_PROGRAMS = 8
FLUSHED = 1 << 28  # bytes that are written between runs, so that none finds its inputs in the L2 cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One measured shape of an op: what it stands for, and its launches when cut in a given way."""

    op: str
    dtype: str
    sizes: tuple[int, int]
    candidates: tuple[LaunchShape, ...]
    launches: Callable[[LaunchShape], tuple[Launch, ...]]


def shapes(tiles: Sequence[tuple[int, ...]], warps: Sequence[int], stages: Sequence[int]) -> tuple[LaunchShape, ...]:
    """All combinations."""
    return tuple(LaunchShape(tile=tile, warps=w, stages=s) for tile in tiles for w in warps for s in stages)


def problems(device: torch.device) -> Iterator[Problem]:
    """What `tune` knows, in the order of what it is worth."""
    for cache_dtype in (torch.bfloat16, torch.float8_e4m3fn):
        for head_dim in (128, 64):
            yield attention(device, head_dim, cache_dtype, is_decode=True, count=64)
            yield attention(device, head_dim, cache_dtype, is_decode=False, count=2)
    for width, sizes in ((4096, (1, 8192)), (28672, (8193, 1_000_000))):
        yield matmul(device, width, sizes)
    for width, depth, sizes in ((1024, 3072, (1, 2048)), (4096, 14336, (2049, 1_000_000))):
        yield one_row(device, width, depth, sizes)


def attention(
    device: torch.device, head_dim: int, cache_dtype: torch.dtype, *, is_decode: bool, count: int, seq_len: int = 4096
) -> Problem:
    """Of 32 heads in 8 groups: `count` requests of `seq_len` tokens that decode, or prompts of that length."""
    heads, kv_heads, block_size = 32, 8, 16
    chunk = 1 if is_decode else seq_len
    columns = seq_len // block_size
    cache = torch.empty(count * columns, kv_heads, 1, 2, block_size, head_dim, dtype=torch.bfloat16, device=device)
    cache = cache.normal_().to(cache_dtype)
    starts = torch.arange(0, (count + 1) * chunk, chunk, dtype=torch.int32, device=device)
    order = torch.randperm(count * columns, device=device).to(torch.int32)
    requests = Requests(
        query_start_loc=starts,
        seq_lens=torch.full((count,), seq_len, dtype=torch.int32, device=device),
        rows=torch.arange(count, dtype=torch.int32, device=device),
        block_table=order.view(count, columns),
    )
    query = torch.randn(count * chunk, heads, head_dim, device=device).to(torch.bfloat16)
    out = torch.empty_like(query)
    group, form = heads // kv_heads, AttentionForm(scale=head_dim**-0.5)

    def launches(shape: LaunchShape) -> tuple[Launch, ...]:
        rows, keys = shape.tile
        schedule = AttentionSchedule.allocate(
            TileShape(tokens=1 if is_decode else rows // group, keys=keys),
            max_requests=count,
            max_tokens=0 if is_decode else len(query),
            num_programs=programs_for(device),
            device=device,
        )
        schedule.make(requests.query_start_loc, requests.seq_lens, num_kv_heads=kv_heads, window=0).run()
        partials = Partials.allocate(schedule, group, head_dim, device)
        attend, merge = paged_attention(query, cache, 0, requests, form, schedule=schedule, partials=partials, out=out)
        return dataclasses.replace(attend, num_warps=shape.warps, num_stages=shape.stages), merge

    return Problem(
        op=f"paged_attention_{'decode' if is_decode else 'chunk'}",
        dtype=str(cache_dtype).removeprefix("torch."),
        sizes=(head_dim // 2 + 1, head_dim),
        candidates=shapes(((16, 32), (16, 64), (16, 128)), (2, 4), (2, 3, 4))
        if is_decode
        else shapes(((64, 64), (128, 32), (128, 64), (128, 128)), (4, 8), (2, 3)),
        launches=launches,
    )


def matmul(device: torch.device, width: int, sizes: tuple[int, int], depth: int = 4096) -> Problem:
    """A few rows and many, which one shape must serve."""
    weight = torch.randn(width, depth, device=device).to(torch.bfloat16)
    steps = [torch.randn(tokens, depth, device=device).to(torch.bfloat16) for tokens in (16, 2048)]
    outs = [torch.empty(len(x), width, dtype=torch.bfloat16, device=device) for x in steps]

    def launches(shape: LaunchShape) -> tuple[Launch, ...]:
        few, many = (fixed_matmul(x, weight, out=out, shape=shape) for x, out in zip(steps, outs, strict=True))
        return few, few, few, few, many  # decoding steps are far more than prompts'

    return Problem(
        op="fixed_matmul",
        dtype="bfloat16",
        sizes=sizes,
        candidates=shapes(((64, 64, 64), (64, 64, 128), (64, 128, 64), (128, 128, 64)), (4, 8), (3, 4)),
        launches=launches,
    )


def one_row(device: torch.device, width: int, depth: int, sizes: tuple[int, int]) -> Problem:
    """A weight that closes an MLP, times one row."""
    weight = torch.randn(width, depth, device=device).to(torch.bfloat16)
    x, out = torch.randn(1, depth, device=device).to(torch.bfloat16), weight.new_empty(1, width)
    return Problem(
        op="matvec",
        dtype="bfloat16",
        sizes=sizes,
        candidates=shapes(((1, 2048), (2, 1024), (2, 2048), (4, 1024), (4, 2048), (8, 1024)), (2, 4, 8), (1,)),
        launches=lambda shape: (matvec(x, weight, out=out, shape=shape),),
    )


def programs_for(device: torch.device) -> int:
    """Among which a step's attention is shared out: two for each multiprocessor."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return 2 * int(torch.cuda.get_device_properties(device).multi_processor_count)


def milliseconds(launches: Sequence[Launch], device: torch.device) -> float:
    """Of one run of all of them, one after the other; the best of a few, with a cold L2 cache."""
    flushed = torch.empty(FLUSHED, dtype=torch.uint8, device=device)
    best = math.inf
    for _ in range(REPETITIONS):
        flushed.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for launch in launches:
            launch.run()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best


def tune(ops: Sequence[str], seconds: float) -> tuple[Entry, ...]:
    """The checked-in table, and behind it what was found best for `ops` on the current GPU; empty `ops` means all.

    Measures no longer than about `seconds`: what is not reached keeps its entry. Raises RuntimeError without a GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("tuning needs a GPU, and torch sees none here")
    device = torch.device("cuda", torch.cuda.current_device())
    deadline, found = time.perf_counter() + seconds, list(table())
    for problem in problems(device):
        if (not ops or problem.op in ops) and (best := best_of(problem, device, deadline)):
            entry = Entry(
                op=problem.op,
                dtype=problem.dtype,
                sizes=problem.sizes,
                capabilities=(capability_of(device),),
                shape=best,
            )
            found = [one for one in found if dataclasses.replace(one, shape=best) != entry]
            found.append(entry)
    return tuple(found)


def best_of(problem: Problem, device: torch.device, deadline: float) -> LaunchShape | None:
    """The fastest of its candidates; None if there was no time for all of them."""
    times: dict[LaunchShape, float] = {}
    for shape in problem.candidates:
        if time.perf_counter() > deadline:
            return None
        if (found := tried(problem, shape, device)) is not None:
            times[shape] = found
    return min(times, key=lambda shape: times[shape], default=None)


def tried(problem: Problem, shape: LaunchShape, device: torch.device) -> float | None:
    """Milliseconds of a candidate; None if it needs more shared memory or registers than the GPU has."""
    try:
        return milliseconds(problem.launches(shape), device)
    except (TritonError, RuntimeError) as error:  # the second: a pass of the compiler that fails
        print(f"{problem.op} {shape}: {str(error).splitlines()[0][:100]}", file=sys.stderr)
        return None


def main() -> int:
    """The command; 0 when a table was written or printed."""
    parser = argparse.ArgumentParser(prog="penstock_kernels.gpu.tune", description=__doc__)
    parser.add_argument("ops", nargs="*", help="names of the table; none: all that can be tuned")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time to spend (default: %(default)g)")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of printing it")
    arguments = parser.parse_args()
    try:
        text = text_of(tune(arguments.ops, arguments.seconds))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.write:
        TABLE.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
