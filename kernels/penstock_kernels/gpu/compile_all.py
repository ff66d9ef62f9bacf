"""`python -m penstock_kernels.gpu.compile_all`: compile every kernel for a GPU, whether or not there is one here."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import torch
import triton
from rich.progress import track
from triton.backends.compiler import GPUTarget

from penstock_kernels.gpu import OPS
from penstock_kernels.gpu.launch import Launch


def all_launches() -> Iterator[tuple[str, Launch]]:
    """Each launch of each case, in the lowest precision of its op, with the op's and the case's names."""
    for op in OPS:
        for case in op.cases:
            inputs = op.make_inputs(case, op.dtypes[-1], torch.Generator().manual_seed(0))
            yield from ((f"{op.name} {case.name}", launch) for launch in op.launches(inputs))


def main() -> int:
    """The command; 0 if everything compiles."""
    parser = argparse.ArgumentParser(prog="penstock_kernels.gpu.compile_all", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, help="compute capability: 80, 90 (the default), 100 …")
    arguments = parser.parse_args()
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET=1 leaves nothing to compile: unset it", file=sys.stderr)
        return 2
    target, begun, failures = GPUTarget("cuda", arguments.arch, 32), time.perf_counter(), []
    launches = list(all_launches())
    for name, launch in track(launches, f"compiling for sm_{arguments.arch}", disable=not sys.stdout.isatty()):
        try:
            launch.compile(target)
        except Exception as error:  # whatever the compiler stumbles over: the others are compiled all the same
            failures.append(f"{name}: {launch.kernel.__name__}: {error}")
    print(*failures, sep="\n", end="\n" if failures else "")
    seconds = time.perf_counter() - begun
    print(
        f"{len(launches) - len(failures)} of {len(launches)} launches compile for sm_{arguments.arch} ({seconds:.0f} s)"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
