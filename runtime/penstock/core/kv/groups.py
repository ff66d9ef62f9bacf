"""Kinds of per-layer memory that share one block pool. Each kind says how many blocks a length needs."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ModelError


class GroupKind(enum.StrEnum):
    """How layers of a group remember the past."""

    FULL = "full"
    SLIDING_WINDOW = "sliding_window"
    MAMBA = "mamba"
    CROSS = "cross"


@dataclass(frozen=True, slots=True, kw_only=True)
class KVGroup:
    """Layers that share block tables. `block_size` is a multiple of the hashing unit; a page is `block_bytes` long."""

    kind: GroupKind
    block_size: int

    def __post_init__(self) -> None:
        if self.kind is not GroupKind.FULL:
            raise ModelError(f"KV cache groups of kind '{self.kind}' are not supported yet; supported: full")

    def blocks_for(self, num_tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Blocks that hold this many tokens each. # [n] -> [n]"""
        return (num_tokens + (self.block_size - 1)) // self.block_size
