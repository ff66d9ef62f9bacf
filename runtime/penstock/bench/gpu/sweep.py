"""`python -m penstock.bench.gpu.sweep`: how attention is best cut and launched on this GPU, as a table to check in.

Kernels are compiled by many processes first (`--part`), which fill Triton's cache; then one process times them all.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from triton.runtime.errors import TritonError

from penstock.bench.gpu.attention_case import AttentionCase, AttentionLaunch, build_case
from penstock.bench.gpu.clock import Clock, CudaClock, HostClock
from penstock.bench.gpu.limits import Limits, measure_limits
from penstock.bench.gpu.shapes import LLAMA_8B, QWEN_06B, TINY, ModelShape, Workload, decode, prefill
from penstock.bench.gpu.suite import run_all
from penstock.bench.kernels import choose_device, device_name, limits_json
from penstock.bench.report import current_commit, describe_machine
from penstock.errors import PenstockError
from penstock_kernels.gpu.launch_table import capability_of

LAYERS = 4  # of the cache: many processes hold one
FIGURE_SECONDS = 0.03
COMPILE_SHARE = 0.5  # of the time, at most
WORKLOADS = (decode(64, 4096), prefill(8192), decode(64, 4096, is_fp8=True), decode(1, 16384))
COMPILED = WORKLOADS[:3]  # the last one runs the kernels of the first


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to launch, tried."""

    how: AttentionLaunch
    microseconds: float | None  # None: it does not fit the device, or its output was wrong
    note: str = ""


def grid(model: ModelShape, workload: Workload) -> list[AttentionLaunch]:
    """Every way that is tried, kernels of one kind together."""
    programs = (2, 4) if workload.is_decode else (2,)
    tokens = (1,) if workload.is_decode else tuple(rows // model.group for rows in (64, 128, 256))
    tiles = itertools.product(tokens, (32, 64, 128))
    return [
        AttentionLaunch(tokens=tokens, keys=keys, programs=count, num_warps=num_warps, num_stages=num_stages)
        for (tokens, keys), num_warps, num_stages, count in itertools.product(tiles, (4, 8), (2, 3, 4), programs)
    ]


def sweep(case: AttentionCase, ways: Sequence[AttentionLaunch], clock: Clock, deadline: float) -> Iterator[Trial]:
    """Try each way, until `deadline` (of `time.monotonic`); outputs are checked."""
    for how in ways:
        if time.monotonic() > deadline:
            return
        try:
            make, layer = case.launches(how)
            case.out.fill_(float("nan"))
            for launch in (make, *layer):
                launch.run()
            if not case.error_of(case.out) <= case.allowed_error:
                yield Trial(how=how, microseconds=None, note="wrong")
                continue
            timing = clock.measure(partial(run_all, layer))
            yield Trial(how=how, microseconds=timing.median * 1e6)
        except (RuntimeError, TritonError) as failure:
            yield Trial(how=how, microseconds=None, note=type(failure).__name__)


def compile_part(index: int, count: int, device: torch.device) -> None:
    """Launch each kernel of one part once, so that it lies in Triton's cache."""
    for model, workload in itertools.product((LLAMA_8B, QWEN_06B), COMPILED):
        ways = {(how.tokens, how.keys, how.num_warps, how.num_stages): how for how in grid(model, workload)}
        case = build_case(model, workload, dtype=torch.bfloat16, device=device, most_layers=LAYERS)
        for how in list(ways.values())[index::count]:
            try:
                for launch in case.launches(how)[1]:
                    launch.run()
            except (RuntimeError, TritonError):
                continue  # it will be told when it is timed
        torch.cuda.synchronize()


def compile_all(count: int, seconds: float) -> None:
    """Compile in `count` processes, for at most so long."""
    words = [sys.executable, "-P", "-m", "penstock.bench.gpu.sweep", "--part"]
    children = [subprocess.Popen([*words, f"{index}/{count}"], stdout=subprocess.DEVNULL) for index in range(count)]
    until = time.monotonic() + seconds
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def row_of(case: AttentionCase, trials: Sequence[Trial], now: float, limits: Limits) -> dict[str, Any]:
    """The best way for one model and batch, beside what the runtime does today, and all that were tried."""
    timed = [(trial.microseconds, index) for index, trial in enumerate(trials) if trial.microseconds is not None]
    best = trials[min(timed)[1]] if timed else None
    item = case.query.itemsize
    floor = limits.floor(
        case.workload.attention_bytes(case.model, item), case.workload.attention_operations(case.model)
    )
    return {
        "model": case.model.name,
        "shape": case.workload.name,
        "best": asdict(best.how) if best else None,
        "microseconds": best.microseconds if best else None,
        "percent": 100e6 * floor / best.microseconds if best and best.microseconds else None,
        "runtime_microseconds": now,
        "wrong": sum(trial.note == "wrong" for trial in trials),
        "trials": [[*asdict(trial.how).values(), trial.microseconds, trial.note] for trial in trials],
    }


def entry_of(row: Mapping[str, Any], capability: int) -> dict[str, object]:
    """A row as a line of the kernels' launch table."""
    best, is_decode = row["best"], row["shape"].startswith("decode")
    group = next(model.group for model in (LLAMA_8B, QWEN_06B, TINY) if model.name == row["model"])
    return {
        "op": "paged_attention_decode" if is_decode else "paged_attention_chunk",
        "dtype": "float8_e4m3fn" if row["shape"].endswith("fp8") else "bfloat16",
        "capabilities": [capability],
        "tile": [max(16, best["tokens"] * group), best["keys"]],
        "warps": best["num_warps"],
        "stages": best["num_stages"],
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole table."""
    device = choose_device(options.smoke)
    end = time.monotonic() + options.seconds
    if options.processes > 1:
        compile_all(options.processes, COMPILE_SHARE * options.seconds)
    gc.freeze()  # each capture of a graph collects garbage
    is_real = device.type == "cuda"
    clock = CudaClock(device, seconds=FIGURE_SECONDS) if is_real else HostClock()
    limits = measure_limits(clock, device, is_smoke=options.smoke)
    pairs = [(TINY, decode(2, 24))] if options.smoke else list(itertools.product((LLAMA_8B, QWEN_06B), WORKLOADS))
    dtype, rows = torch.float32 if options.smoke else torch.bfloat16, []
    for index, (model, workload) in enumerate(pairs):
        case = build_case(model, workload, dtype=dtype, device=device, most_layers=LAYERS)
        ways = grid(model, workload)
        random.Random(0).shuffle(ways)  # where time ends before they do, those that were tried are a fair sample
        ways = ways[:2] if options.smoke else ways
        deadline = time.monotonic() + (end - time.monotonic()) / (len(pairs) - index)
        prepare, attend = case.backend()
        prepare()
        now = clock.measure(attend).median * 1e6
        rows.append(row_of(case, list(sweep(case, ways, clock, deadline)), now, limits))
    return {
        "benchmark": "attention launches",
        "command": "python -m penstock.bench.gpu.sweep" + " --smoke" * options.smoke,
        "commit": current_commit(),
        "machine": describe_machine(),
        "device": device_name(device),
        "limits": limits_json(limits),
        "columns": [*AttentionLaunch.__dataclass_fields__, "microseconds", "note"],
        "rows": rows,
        "entries": [{"model": row["model"], **entry_of(row, capability_of(device))} for row in rows if row["best"]],
    }


def main() -> int:
    """The command; 1 if a way of launching gave a wrong output."""
    parser = argparse.ArgumentParser(prog="penstock.bench.gpu.sweep", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table to FILE")
    parser.add_argument("--seconds", type=float, default=150.0, metavar="S", help="for all of it (default: 150)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that compile beforehand (default: none)")
    parser.add_argument("--part", metavar="I/N", help="only compile, this part of N")
    parser.add_argument("--smoke", action="store_true", help="one tiny shape, only to see that it runs")
    options = parser.parse_args()
    try:
        if options.part:
            index, count = map(int, options.part.split("/"))
            compile_part(index, count, choose_device(is_smoke=False))
            return 0
        table = measure(options)
    except PenstockError as error:
        print(f"penstock: error: {error}", file=sys.stderr)
        return error.exit_code
    for row in table["rows"]:
        print({name: value for name, value in row.items() if name != "trials"})
    if options.json:
        options.json.write_text(json.dumps(table, allow_nan=False) + "\n")
    return int(any(row["wrong"] for row in table["rows"]))


if __name__ == "__main__":
    sys.exit(main())
