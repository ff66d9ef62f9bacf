"""Run every benchmark and keep its figures: bench/results/<machine>/<benchmark>.json.

make bench ARGS='--peers FOLDER'     with the engines that bench/setup_peers.sh put there
make bench ARGS='--quick'            a short form
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from penstock.bench.report import describe_machine
from penstock.cli import main

RESULTS = Path(__file__).parent / "results"
NEEDS_GPU = frozenset({"kernels"})  # see bench/gpu.py


def commands(quick: bool, peers: str | None) -> dict[str, list[str]]:
    """Arguments of each benchmark."""
    if quick:
        serve = ["--rates", "1", "--seconds", "5", "--warm-up", "1", "--seeds", "1"]
        found = {"scheduler": ["--steps", "50"], "offline": ["--quick"], "startup": ["--repeats", "1", "--no-cold"]}
        found |= {"fidelity": ["--prompts", "8"], "pd": ["--quick"]}
        found["router"] = ["--seconds", "2", "--seeds", "1", "--streams", "200"]
    else:
        serve, found = [], {"scheduler": [], "offline": ["--weights", "bf16,int4,int8"], "startup": [], "fidelity": []}
        found |= {"router": [], "pd": []}
    found["offline"] += ["--peers", peers] if peers else []
    return found | {"serve": serve}


def run_all(quick: bool, peers: str | None) -> int:
    """Run them one after the other; returns the exit code, that of the last one that failed."""
    folder = RESULTS / re.sub(r"[^a-z0-9.]+", "-", describe_machine().lower()).strip("-")
    code = 0
    for name, words in commands(quick, peers).items():
        code = main(["bench", name, *words, "--json", str(folder / f"{name}.json")]) or code
    print(f"figures written to {folder}")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run every benchmark and keep its figures.")
    parser.add_argument("--quick", action="store_true", help="a short form of each")
    parser.add_argument("--peers", metavar="FOLDER", help="engines set up by bench/setup_peers.sh")
    options = parser.parse_args()
    sys.exit(run_all(options.quick, options.peers))
