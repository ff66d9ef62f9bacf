"""`python -m penstock_kernels.gpu.compile_all`: compile every kernel for a GPU, whether or not there is one here."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import triton
from rich.progress import track
from triton.backends.compiler import GPUTarget

from penstock_kernels.gpu import OPS, fixed_matmul, matvec, paged_attention_op
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import HOPPER
from penstock_kernels.gpu.paged_attention import tile_for
from penstock_kernels.gpu.registry import Case

SHARED_BYTES = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, HOPPER: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
SERVED = ((128, torch.bfloat16), (128, torch.float8_e4m3fn), (64, torch.bfloat16), (256, torch.bfloat16))


def all_launches() -> Iterator[tuple[str, Launch]]:
    """Each launch of each case, in the lowest precision of its op, with the op's and the case's names."""
    for op in OPS:
        for case in op.cases:
            inputs = op.make_inputs(case, op.dtypes[-1], torch.Generator().manual_seed(0))
            yield from ((f"{op.name} {case.name}", launch) for launch in op.launches(inputs))


def served_launches() -> Iterator[tuple[str, Launch]]:
    """Attention and matmul as they are cut when real models are served, which is more than an interpreter could do."""
    for head_dim, cache_dtype in SERVED:
        for is_decode in (True, False):
            tile = tile_for(
                group=4, head_dim=head_dim, cache_dtype=cache_dtype, device=torch.device("cpu"), is_decode=is_decode
            )
            parameters: dict[str, Any] = {"heads": 8, "kv_heads": 2, "head_dim": head_dim, "lengths": ((1, 9),)}
            parameters |= {"tokens": tile.tokens, "keys": tile.keys, "is_fp8": cache_dtype == torch.float8_e4m3fn}
            case = Case(name=f"{'decode' if is_decode else 'chunk'} {head_dim} {cache_dtype}", parameters=parameters)
            inputs = paged_attention_op.make_inputs(case, torch.bfloat16, torch.Generator().manual_seed(0))
            attend = paged_attention_op.launches(inputs)[1]
            yield f"served paged_attention {case.name}", attend
    for width in (4096, 28672):
        x, weight, out = (torch.empty(1, size, dtype=torch.bfloat16) for size in (4096, 4096, width))
        launch = fixed_matmul.fixed_matmul(x, weight.expand(width, -1), out=out)
        yield f"served fixed_matmul {width}", launch
        yield f"served matvec {width}", matvec.matvec(x, weight.expand(width, -1), out=out)


def main() -> int:
    """The command; 0 if everything compiles."""
    parser = argparse.ArgumentParser(prog="penstock_kernels.gpu.compile_all", description=__doc__)
    parser.add_argument("--arch", type=int, default=90, help="compute capability: 80, 90 (the default), 100 …")
    arguments = parser.parse_args()
    if triton.knobs.runtime.interpret:
        print("TRITON_INTERPRET=1 leaves nothing to compile: unset it", file=sys.stderr)
        return 2
    target, begun, failures = GPUTarget("cuda", arguments.arch, 32), time.perf_counter(), []
    launches = [*all_launches(), *served_launches()]
    most_shared = SHARED_BYTES.get(arguments.arch, SHARED_BYTES[HOPPER])
    for name, launch in track(launches, f"compiling for sm_{arguments.arch}", disable=not sys.stdout.isatty()):
        try:
            shared = launch.compile(target).metadata.shared
            if shared > most_shared:
                failures.append(f"{name}: {launch.kernel.__name__}: {shared} bytes of shared memory of {most_shared}")
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
