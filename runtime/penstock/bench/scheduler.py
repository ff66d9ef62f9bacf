"""`penstock bench scheduler`: what a steady decode step costs the host (schedule + apply, no device in it).

The peer's figures are vLLM 0.32's scheduler on the same trace, measured on another machine: they give the order of
magnitude, so no ratio to them is claimed here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from penstock.bench.report import Report, Row
from penstock.config import SchedulerConfig
from penstock.core.kv.block_hash import hash_blocks, root_hash
from penstock.core.plan import StepPlan, StepResult, no_ints
from penstock.core.request import Request
from penstock.core.scheduler import Scheduler
from penstock.core.trace import TraceHead, build_scheduler, replay
from penstock.sampling.params import SamplingParams

PROMPT_TOKENS = 512
BLOCK_SIZE = 16
BATCH_SIZES = (1, 32, 256, 1024)
MUST = {1: 60.0, 32: 80.0, 256: 150.0, 1024: 400.0}  # microseconds
VLLM = {1: 27.0, 32: 353.0, 256: 2823.0, 1024: 13720.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    parser.add_argument("--steps", type=int, default=400, help="measured steps per batch size (default: 400)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="replay a recording (serve --trace-file) instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    if options.replay is not None:
        print(f"{replay(options.replay):,} plans of {options.replay} decided again, all equal")
        return 0
    rows = []
    for size in BATCH_SIZES:
        median, p99 = measure(size, options.steps)
        note = f"must {MUST[size]:.0f} µs; vLLM 0.32 elsewhere: {VLLM[size]:,.0f} µs"
        rows.append(Row(name=f"step, {size} running", value=round(median, 1), unit="µs", limit=MUST[size], note=note))
        rows.append(Row(name=f"step, {size} running, p99", value=round(p99, 1), unit="µs"))
    Report(benchmark="scheduler", command="penstock bench scheduler", rows=rows).publish(options.json)
    return 0


def measure(size: int, num_steps: int) -> tuple[float, float]:
    """Median and 99th percentile of schedule + apply in microseconds, `size` requests decoding."""
    scheduler = fill_scheduler(size, num_steps)
    while (plan := scheduler.schedule()) is not None and (plan.new_rows or plan.num_tokens.max() > 1):
        scheduler.apply(answer(plan, scheduler))
    if plan is not None:
        scheduler.apply(answer(plan, scheduler))
    times = []
    for _ in range(num_steps):
        began = time.perf_counter()
        plan = scheduler.schedule()
        scheduled = time.perf_counter()
        assert plan is not None, "nothing to schedule"
        assert len(plan.rows) == size, "the batch is not in steady decode"
        result = answer(plan, scheduler)
        resumed = time.perf_counter()
        scheduler.apply(result)
        times.append((time.perf_counter() - resumed + scheduled - began) * 1e6)
    return statistics.median(times), float(np.percentile(times, 99))


def fill_scheduler(size: int, num_steps: int) -> Scheduler:
    """A scheduler with `size` requests of 512 prompt tokens, each different, waiting."""
    max_model_len = PROMPT_TOKENS + num_steps + 200
    scheduler = build_scheduler(
        TraceHead(
            scheduler=SchedulerConfig(max_num_seqs=size, max_num_batched_tokens=8192, target_itl_ms=0),
            num_blocks=size * (max_model_len // BLOCK_SIZE + 2) * 2,
            block_size=BLOCK_SIZE,
            max_model_len=max_model_len,
            has_prefix_cache=True,
        )
    )
    for handle in range(size):
        prompt = np.full(PROMPT_TOKENS, handle, dtype=np.int32)
        scheduler.add(
            Request(
                client=0,
                handle=handle,
                request_id=str(handle),
                prompt_ids=prompt.tobytes(),
                block_hashes=b"".join(hash_blocks(root_hash(), prompt, BLOCK_SIZE)),
                root_hash=root_hash(),
                sampling=SamplingParams(max_tokens=None, seed=0),
                stop_ids=(2,),
                max_total=max_model_len,
                arrival=float(handle),
            )
        )
    return scheduler


def answer(plan: StepPlan, scheduler: Scheduler) -> StepResult:
    """What a device would answer: a token that stops nobody, for each row that has all its tokens computed."""
    table = scheduler.table
    done = table.num_computed[plan.rows] + 1 == table.num_tokens[plan.rows]
    rows = plan.rows[done]
    return StepResult(
        step=plan.step,
        rows=rows,
        token_ids=np.full(len(rows), 17, dtype=np.int32),
        logprobs=None,
        prompt_logprobs=(),
        failed_rows=no_ints(),
        elapsed=0.01,
    )
