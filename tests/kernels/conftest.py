"""Backends and inputs that the kernels' tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from penstock_kernels.cpu.attention_inputs import AttentionInputs
from penstock_kernels.cpu.backend import Backend, TorchBackend
from penstock_kernels.cpu.library import Library, runnable_variants
from penstock_kernels.cpu.native_backend import NativeBackend

VARIANTS = runnable_variants()


@pytest.fixture(scope="session", params=[*VARIANTS, "torch"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each implementation that this machine can run; the compiled ones with two threads."""
    if request.param == "torch":
        return TorchBackend()
    chosen = NativeBackend(Library(request.param))
    chosen.set_num_threads(2)
    return chosen


@pytest.fixture(scope="session", params=VARIANTS)
def compiled(request: pytest.FixtureRequest) -> Backend:
    """Each compiled variant that this machine can run."""
    chosen = NativeBackend(Library(request.param))
    chosen.set_num_threads(2)
    return chosen


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Tiny matmuls spend more on waking torch's threads than on arithmetic."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def build_inputs() -> Callable[..., AttentionInputs]:
    """Builds a step of requests with the given counts of new tokens and total lengths, in shuffled blocks."""

    def build(counts: Sequence[int], lengths: Sequence[int], block_size: int, rotary_dim: int) -> AttentionInputs:
        requests, columns = len(counts), max(-(-length // block_size) for length in lengths)
        generator = torch.Generator().manual_seed(1)
        blocks = torch.randperm(requests * columns, generator=generator).view(requests, columns)
        angles = torch.arange(max(lengths))[:, None] * torch.rand(rotary_dim // 2, generator=generator)
        new = [torch.arange(length - count, length) for count, length in zip(counts, lengths, strict=True)]
        return AttentionInputs(
            positions=torch.cat(new).int(),
            query_start_loc=torch.tensor([0, *counts]).cumsum(0).int(),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            rows=torch.arange(requests - 1, -1, -1, dtype=torch.int32),
            block_table=blocks.int(),
            cos_sin=torch.cat((angles.cos(), angles.sin()), dim=1),
        )

    return build


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Norm of the difference over the norm of what was expected."""
    return lambda found, expected: float((found - expected).norm() / expected.norm())
