"""Every GPU kernel as a share of what the device was measured to copy or to multiply, beside torch, FlexAttention and
FlashAttention 3.

Outputs are checked in the same run: a wrong kernel gets no figure but the word, and the command fails. Times are
medians of replayed graphs with the L2 cache flushed before each; bytes are the fewest that have to move.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from penstock.bench.report import PLAIN_WIDTH, current_commit, describe_machine
from penstock.errors import PenstockError
from penstock.loader.progress import say

if TYPE_CHECKING:
    import torch

    from penstock.bench.gpu.figure import Figure
    from penstock.bench.gpu.limits import Limits

SECONDS = 240.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="S",
        help=f"begin no figure after so long (default: {SECONDS:g})",
    )
    parser.add_argument(
        "--figure-seconds", type=float, default=0.1, metavar="S", help="of runs for one time (default: 0.1)"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, only to see that it runs; on a CPU too")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="measure torch and others beside us"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, check, print, write; returns the exit code: 1 if a kernel was wrong or failed."""
    device = choose_device(options.smoke)
    from penstock.bench.gpu.clock import CudaClock, HostClock
    from penstock.bench.gpu.limits import measure_limits
    from penstock.bench.gpu.suite import Plan, run_tasks, tasks

    deadline = time.monotonic() + options.seconds
    gc.freeze()  # each capture of a graph collects garbage, and torch brings a million objects
    is_real = device.type == "cuda"
    clock = CudaClock(device, seconds=options.figure_seconds) if is_real else HostClock()
    limits = measure_limits(clock, device, is_smoke=options.smoke)
    plan = Plan.of(clock, device, is_smoke=options.smoke, has_peers=options.peers)
    figures: list[Figure] = []
    left_out: list[str] = []
    result = head_of(options, device) | {"limits": limits_json(limits), "figures": [], "left_out": left_out}
    result["skewed_over_balanced"] = {}
    for task, figure in run_tasks(tasks(plan), deadline):
        if figure is None:
            left_out.append(task.name)
            continue
        say(f"{task.name}: {figure.verdict}")
        figures.append(figure)
        result["figures"].append(figure.as_json(limits))
        result["skewed_over_balanced"] = skew_ratios(figures)
        write_json(options.json, result)  # what comes later may crash
    write_json(options.json, result)
    print_table(result)
    return exit_code(figures)


def head_of(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What was run, on what."""
    words = [f"--seconds {options.seconds:g}", f"--figure-seconds {options.figure_seconds:g}"]
    words += ["--smoke"] * options.smoke + ["--no-peers"] * (not options.peers)
    return {
        "benchmark": "kernels",
        "command": " ".join(["penstock bench kernels", *words]),
        "commit": current_commit(),
        "machine": describe_machine(),
        "device": device_name(device),
    }


def write_json(file: Path | None, result: dict[str, Any]) -> None:
    """Where a file is asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        part.replace(file)  # never half of it, whenever the process is ended


def skew_ratios(figures: list[Figure]) -> dict[str, float]:
    """By model: how much longer one long context among short ones takes than the same keys in equal parts."""
    from penstock.bench.gpu.shapes import BALANCED, SKEWED

    seconds = {(one.model, one.shape): one.timing.median for one in figures if one.timing and one.is_right}
    return {
        model: took / seconds[model, BALANCED.name]
        for (model, shape), took in seconds.items()
        if shape == SKEWED.name and (model, BALANCED.name) in seconds
    }


def exit_code(figures: list[Figure]) -> int:
    """1 if a kernel's output was wrong, or if it could not run for another reason than the device's memory."""
    return int(any(figure.verdict in ("wrong", "failed") for figure in figures))


def choose_device(is_smoke: bool) -> torch.device:
    """The GPU, or with `is_smoke` a CPU too. Raises `PenstockError` that says what is missing."""
    if importlib.util.find_spec("triton") is None:
        raise PenstockError("bench kernels needs Triton: install the package triton")
    import torch
    import triton

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if not is_smoke:
        raise PenstockError("bench kernels needs a GPU, and there is none; --smoke shows on a CPU that it runs")
    if not triton.knobs.runtime.interpret:
        raise PenstockError("without a GPU the kernels are interpreted: set TRITON_INTERPRET=1")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What the GPU calls itself, or "cpu"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def limits_json(limits: Limits) -> dict[str, float]:
    """Ceilings in the units of people."""
    return {
        "copy_gb_per_s": limits.copy / 1e9,
        "matmul_tflop_per_s": limits.matmul / 1e12,
        "launch_us": limits.launch * 1e6,
    }


def print_table(result: dict[str, Any]) -> None:
    """The figures, with a column for each peer."""
    limits, figures = result["limits"], result["figures"]
    title = (
        f"kernels on {result['device']}: copy {limits['copy_gb_per_s']:,.0f} GB/s, "
        f"bf16 matmul {limits['matmul_tflop_per_s']:,.1f} TFLOP/s, empty launch {limits['launch_us']:.1f} us"
    )
    table = Table(title=title, title_justify="left")
    peers = list(dict.fromkeys(name for figure in figures for name in figure["peers"]))
    for heading in ("model", "op", "shape", "us", "spread", "rate", "of limit", *peers, "note"):
        table.add_column(
            heading, justify="right" if heading in ("us", "spread", "rate", "of limit", *peers) else "left"
        )
    for figure in figures:
        is_right = figure["verdict"] == "right"
        cells = [figure["verdict"], "", "", ""]
        if is_right:
            spread = f"{figure['low']:,.1f} to {figure['high']:,.1f}"
            rate = f"{figure['rate']:,.4g} {figure['unit']}"
            cells = [f"{figure['microseconds']:,.1f}", spread, rate, f"{figure['percent']:.0f} % {figure['bound']}"]
        others = [peer_cell(figure["peers"].get(name)) for name in peers]
        table.add_row(figure["model"], figure["op"], figure["shape"], *cells, *others, figure["note"])
    console = Console()
    Console(width=None if console.is_terminal else PLAIN_WIDTH + 40).print(table)
    for model, ratio in result["skewed_over_balanced"].items():
        print(f"{model}: skewed decode takes {ratio:.2f} times as long as the same keys in equal parts (must: 1.25)")
    if result["left_out"]:
        print(f"no time left for: {', '.join(result['left_out'])}")


def peer_cell(peer: dict[str, Any] | None) -> str:
    """A peer's time and share, or why there is none."""
    if peer is None:
        return ""
    if peer["microseconds"] is None:
        return str(peer["note"])
    return f"{peer['microseconds']:,.1f} ({peer['percent']:.0f} %)"
