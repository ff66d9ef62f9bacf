"""What changed, put in its places: runs of words from one packed buffer into one arena, in a single launch.

```
packed:  destinations, 2 words each │ starts of the runs' words, and their end │ words of run 0, of run 1, …
         0                          2 n                                        3 n + 1
```
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Case, Inputs, Op

WORDS = 1024  # that a program copies at once
HEADER_WORDS = 3  # of each run, and one more in all


@triton.jit(do_not_specialize=["num_runs"])  # it differs from step to step
def apply_deltas_kernel(arena_ptr, packed_ptr, num_runs, arena_words, packed_words, WORDS: tl.constexpr):
    """One program per run."""
    run = tl.program_id(0)
    low = tl.load(packed_ptr + 2 * run).to(tl.int64) & 0xFFFFFFFF
    destination = (tl.load(packed_ptr + 2 * run + 1).to(tl.int64) << 32) | low
    start = tl.load(packed_ptr + 2 * num_runs + run)
    end = tl.load(packed_ptr + 2 * num_runs + run + 1)
    count = end - start
    if (destination >= 0) & (destination + count <= arena_words) & (start >= 0) & (end <= packed_words):
        for first in range(0, count, WORDS):
            word = first + tl.arange(0, WORDS)
            values = tl.load(packed_ptr + start + word, mask=word < count)
            tl.store(arena_ptr + destination + word, values, mask=word < count)


def apply_deltas(arena: Tensor, packed: Tensor, num_runs: int) -> Launch:
    """Copy each run of `packed` int32 (see `pack_runs`) to its place in `arena` int32; runs do not overlap.

    A run that is not wholly within the arena writes nothing.
    """
    return Launch(
        kernel=apply_deltas_kernel,
        grid=(num_runs,),
        args={
            "arena_ptr": arena,
            "packed_ptr": packed,
            "num_runs": num_runs,
            "arena_words": arena.numel(),
            "packed_words": packed.numel(),
        },
        constants={"WORDS": WORDS},
    )


def pack_runs(
    destinations: NDArray[np.int64], lengths: NDArray[np.int64], words: NDArray[np.int32], out: NDArray[np.int32]
) -> int:
    """Write runs of `lengths` [n], whose `words` follow each other, into `out`; returns how many words that took."""
    count = len(destinations)
    header = HEADER_WORDS * count + 1
    out[: 2 * count] = destinations.view(np.int32)
    starts = out[2 * count : header]
    starts[0] = header
    np.cumsum(lengths, out=starts[1:])
    starts[1:] += header
    out[header : header + len(words)] = words
    return header + len(words)


def reference(arena: Tensor, packed: Tensor, num_runs: int) -> Tensor:
    """See `apply_deltas`; the arena as it is afterwards."""
    after, content = arena.clone(), packed.cpu()
    destinations = content[: 2 * num_runs].view(torch.int64).tolist()
    starts = content[2 * num_runs : 3 * num_runs + 1].tolist()
    for destination, start, end in zip(destinations, starts[:-1], starts[1:], strict=True):
        if destination >= 0 and destination + end - start <= len(arena):
            after[destination : destination + end - start] = packed[start:end]
    return after


def _make_inputs(case: Case, _: torch.dtype, generator: torch.Generator) -> Inputs:
    lengths = np.array(case.parameters["lengths"], dtype=np.int64)
    gaps = np.arange(len(lengths)) + 1
    destinations = np.cumsum(lengths + gaps) - lengths
    arena_words = int(destinations[-1] + lengths[-1])
    if case.parameters["is_outside"]:
        destinations[:3] = (-2, arena_words - lengths[1] + 1, 1 << 40)
    out = np.zeros(int(lengths.sum()) + HEADER_WORDS * len(lengths) + 9, dtype=np.int32)
    words = np.arange(int(lengths.sum()), dtype=np.int32) + 1_000_000
    pack_runs(destinations, lengths, words, out)
    return {
        "arena": torch.full((arena_words,), -5, dtype=torch.int32, device=generator.device),
        "packed": torch.from_numpy(out).to(generator.device),
        "num_runs": len(lengths),
    }


OP = Op(
    name="apply_deltas",
    make_inputs=_make_inputs,
    launches=lambda inputs: (apply_deltas(inputs["arena"], inputs["packed"], inputs["num_runs"]),),
    reference=lambda inputs: {"arena": reference(inputs["arena"], inputs["packed"], inputs["num_runs"])},
    outputs=(),
    cases=tuple(
        Case(name=name, parameters={"lengths": lengths, "is_outside": name == "outside"})
        for name, lengths in (("mixed", (1, 2500, 17, 1, 1024)), ("outside", (4, 5, 6, 7)), ("one", (1,)))
    ),
    dtypes=(torch.int32,),
    is_exact=True,
)
