"""`python -m penstock.bench.gpu.environment`: the machine that a run is about, and its limits."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from penstock.bench.gpu.attention_peers import NotComparable, NotInstalled, flash_module
from penstock.bench.gpu.clock import CudaClock, HostClock
from penstock.bench.gpu.limits import measure_limits
from penstock.bench.kernels import choose_device, limits_json
from penstock.bench.report import current_commit, describe_machine
from penstock.errors import PenstockError

PACKAGES = ("torch", "triton", "numpy", "transformers", "tokenizers", "safetensors", "msgspec", "fa3-fwd", "pytest")


def describe(device: torch.device) -> dict[str, object]:
    """What the GPU says of itself; little for a CPU."""
    if device.type != "cuda":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def driver_version() -> str | None:
    """As `nvidia-smi` says it; None where that is missing."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or None


def versions() -> dict[str, str | None]:
    """Of packages that matter; null for those that are not here."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def flash_state() -> str:
    """Whether FlashAttention 3 can be loaded."""
    try:
        return str(flash_module().__name__)
    except NotInstalled:
        return "not installed"
    except NotComparable as why:
        return str(why)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="penstock.bench.gpu.environment", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it to FILE")
    parser.add_argument("--smoke", action="store_true", help="without a GPU too")
    options = parser.parse_args()
    try:
        device = choose_device(options.smoke)
    except PenstockError as error:
        print(f"penstock: error: {error}", file=sys.stderr)
        return error.exit_code
    clock = CudaClock(device) if device.type == "cuda" else HostClock()
    found = {
        "benchmark": "environment",
        "command": "python -m penstock.bench.gpu.environment" + " --smoke" * options.smoke,
        "commit": current_commit(),
        "machine": describe_machine(),
        "device": describe(device),
        "versions": versions(),
        "flash_attention_3": flash_state(),
        "limits": limits_json(measure_limits(clock, device, is_smoke=options.smoke)),
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
