"""A chunk made up at start, to see whether a backend is right, and which is faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from penstock.attention.backend import AttentionBackend, AttentionNeeds, ForwardBatch

Measure = Callable[[Callable[[], None]], float]  # work of a device -> seconds

CHUNK_TOKENS = 2048  # at most: half a millisecond's work for a layer of 32 heads, so that no launch is what is timed
KEYS_PER_TOKEN = 4  # of the context, the chunk at its end
WARM_UPS, REPEATS = 3, 10


def chunk_step(needs: AttentionNeeds, num_keys: int) -> tuple[Tensor, ForwardBatch]:
    """`needs.max_tokens` queries at the end of so many keys, in blocks that lie backwards: queries [T, H, D], the step.

    Raises torch's errors where the device has too little memory.
    """
    device, block_size, num_tokens = needs.device, needs.block_size, needs.max_tokens
    num_blocks = -(-num_keys // block_size)
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(needs.dtype)

    nothing = torch.zeros(num_tokens, dtype=torch.int32, device=device)
    return normal(num_tokens, needs.num_heads, needs.head_dim), ForwardBatch(
        input_ids=nothing,
        positions=nothing,
        query_start_loc=torch.tensor([0, num_tokens], dtype=torch.int32, device=device),
        seq_lens=torch.tensor([num_keys], dtype=torch.int32, device=device),
        rows=nothing[:1],
        block_table=torch.arange(num_blocks, 0, -1, dtype=torch.int32, device=device)[None],
        kv_cache=normal(num_blocks + 1, needs.num_kv_heads, len(needs.windows), 2, block_size, needs.head_dim),
    )


def chunk_seconds(
    build: Callable[[AttentionNeeds], AttentionBackend], needs: AttentionNeeds, measure: Measure
) -> float:
    """How long a backend takes for a chunk that `needs` allows, one layer of each kind."""
    windows, max_tokens = tuple(dict.fromkeys(needs.windows)), min(needs.max_tokens, CHUNK_TOKENS)
    needs = replace(needs, windows=windows, max_requests=1, max_tokens=max_tokens)
    query, batch = chunk_step(needs, KEYS_PER_TOKEN * max_tokens)
    backend, out = build(needs), torch.empty_like(query)
    backend.prepare(batch)
    return sum(measure(partial(backend.attend, layer, query, batch, out)) for layer in range(len(windows)))


def seconds_on_gpu(work: Callable[[], None]) -> float:
    """The median of a few runs on the current stream, after some that are not counted."""
    for _ in range(WARM_UPS):
        work()
    event = partial(torch.cuda.Event, enable_timing=True)
    pairs = [(event(), event()) for _ in range(REPEATS)]
    for begin, end in pairs:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in pairs)) / 1000
