"""Copies of whole cache blocks within one cache: all layers, keys and values of some tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.launch_table import launch_shape
from penstock_kernels.gpu.registry import Case, Inputs, Op


@triton.jit
def copy_blocks_kernel(words_ptr, sources_ptr, targets_ptr, num_blocks, num_words, WORDS: tl.constexpr):
    """One program per block and part of it."""
    index = tl.program_id(0)
    source = tl.load(sources_ptr + index)
    target = tl.load(targets_ptr + index)
    if (source >= 0) & (source < num_blocks) & (target >= 0) & (target < num_blocks):
        word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
        inside = word < num_words
        content = tl.load(words_ptr + source.to(tl.int64) * num_words + word, mask=inside, other=0)
        tl.store(words_ptr + target.to(tl.int64) * num_words + word, content, mask=inside)


def copy_blocks(kv_cache: Tensor, sources: Tensor, targets: Tensor) -> Launch:
    """Copy block `sources[i]` over block `targets[i]`, all at once: no target is anybody's source. # int32 [n]

    Ids outside the cache copy nothing. A block is a multiple of 4 bytes.
    """
    words = kv_cache.flatten(1).view(torch.int32)
    shape = launch_shape("copy_blocks", dtype=words.dtype, size=words.shape[1], device=words.device)
    (width,) = shape.tile
    return Launch(
        kernel=copy_blocks_kernel,
        grid=(len(sources), triton.cdiv(words.shape[1], width)),
        args={
            "words_ptr": words,
            "sources_ptr": sources,
            "targets_ptr": targets,
            "num_blocks": words.shape[0],
            "num_words": words.shape[1],
        },
        constants={"WORDS": width},
        num_warps=shape.warps,
    )


def reference(kv_cache: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """See `copy_blocks`; the cache as it is afterwards."""
    after = kv_cache.clone()
    for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
        if 0 <= source < len(kv_cache) and 0 <= target < len(kv_cache):
            after[target] = kv_cache[source]
    return after


def _make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    num_blocks, device = case.parameters["num_blocks"], generator.device
    order = torch.randperm(num_blocks, generator=generator, device=device).to(torch.int32)
    sources, targets = order[: num_blocks // 2].clone(), order[num_blocks // 2 :][: num_blocks // 2].clone()
    targets[0], sources[1] = num_blocks, -1
    return {
        "kv_cache": torch.randn(num_blocks, 2, 3, 2, 16, 32, generator=generator, device=device).to(dtype),
        "sources": sources,
        "targets": targets,
    }


OP = Op(
    name="copy_blocks",
    make_inputs=_make_inputs,
    launches=lambda inputs: (copy_blocks(inputs["kv_cache"], inputs["sources"], inputs["targets"]),),
    reference=lambda inputs: {"kv_cache": reference(inputs["kv_cache"], inputs["sources"], inputs["targets"])},
    outputs=(),
    cases=(Case(name="ten-blocks", parameters={"num_blocks": 10}),),
    is_exact=True,
)
