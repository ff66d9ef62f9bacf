"""That the memory of a step is known before it is taken, and that what lives together lies apart."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from penstock.layers.workspace import StepLimits, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    hidden_size: int = 24
    intermediate_size: int = 40
    num_heads: int = 3
    num_kv_heads: int = 1
    head_dim: int = 8

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


SIZES = (Sizes(), Sizes(intermediate_size=7), Sizes(intermediate_size=333), Sizes(num_heads=16, num_kv_heads=16))
LIMITS = (StepLimits(max_tokens=17, max_requests=4), StepLimits(max_tokens=1, max_requests=9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("sizes", SIZES)
def test_takes_just_what_it_said(sizes: Sizes, limits: StepLimits, dtype: torch.dtype) -> None:
    work = Workspace(sizes, limits, dtype, torch.device("cpu"))
    buffers = (work.ids, work.hidden, work.normed, work.delta)
    storages = {buffer.untyped_storage().data_ptr(): buffer.untyped_storage().nbytes() for buffer in buffers}
    assert list(storages.values()) == [Workspace.num_bytes(sizes, limits, dtype)]


@pytest.mark.parametrize("num_tokens", [1, 5, 17])
@pytest.mark.parametrize("sizes", SIZES)
def test_what_lives_together_lies_apart(sizes: Sizes, num_tokens: int) -> None:
    work = Workspace(sizes, LIMITS[0], torch.bfloat16, torch.device("cpu"))
    always = [work.ids[:num_tokens], *(part[:num_tokens] for part in (work.hidden, work.normed, work.delta))]
    query, attended = work.query(num_tokens), work.attended(num_tokens)
    gate_up = work.wide(num_tokens, 2 * sizes.intermediate_size)
    activated = work.activated(num_tokens, sizes.intermediate_size)
    for together in (
        [*always, work.wide(num_tokens, sizes.qkv_width), query],
        [*always, query, attended],
        [*always, gate_up, activated],
    ):
        assert all(part.is_contiguous() for part in together)
        taken = sorted(span(part) for part in together)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(taken))
        first = work.ids.untyped_storage().data_ptr()
        assert first <= taken[0][0]
        assert taken[-1][1] <= first + work.ids.untyped_storage().nbytes()


def span(part: Tensor) -> tuple[int, int]:
    """Its first byte and the one after its last."""
    return part.data_ptr(), part.data_ptr() + part.nbytes
