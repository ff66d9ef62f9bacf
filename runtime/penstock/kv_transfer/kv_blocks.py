"""The KV blocks of a rank, as what moves them outside the steps sees them, wherever they lie.

Nothing here waits for a step or is ordered with one. Whoever reads or writes a block holds a ticket on it, and the
engine core gives tickets only for blocks that no step in flight writes to (`core.departures`): what is to be filled is
named by none, and what can be read has been computed by steps that ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Fill = Callable[[Bytes], bool]


class Place(NamedTuple):
    """What NIXL must know of memory beside its address."""

    kind: Literal["DRAM", "VRAM"]
    device: int  # number of the GPU among those that its process sees


HOST = Place("DRAM", 0)


class KvBlocks(Protocol):
    """Blocks of one size, one after the other. All methods are called from one thread, `activate` first."""

    @property
    def place(self) -> Place:
        """Where they lie."""

    @property
    def address(self) -> int:
        """Of block 0."""

    @property
    def num_blocks(self) -> int:
        """With the dummy block."""

    @property
    def block_bytes(self) -> int:
        """Of each."""

    def activate(self) -> None:
        """Make the device known to this thread."""

    def read(self, number: int) -> Bytes:
        """A block in host memory, uint8 [block_bytes], to be looked at before the next call."""

    def write(self, number: int, fill: Fill) -> bool:
        """Have `fill` say what a block holds; where it returns False, so does this, and the block holds anything."""


class HostBlocks:
    """See `KvBlocks`: in host memory, where nothing is copied."""

    place = HOST

    def __init__(self, memory: Bytes) -> None:
        """`memory`: [num_blocks, block_bytes], contiguous."""
        self._memory = memory
        self.address = int(memory.ctypes.data)
        self.num_blocks, self.block_bytes = memory.shape

    def activate(self) -> None:
        """See `KvBlocks`."""

    def read(self, number: int) -> Bytes:
        """See `KvBlocks`."""
        block: Bytes = self._memory[number]
        return block

    def write(self, number: int, fill: Fill) -> bool:
        """See `KvBlocks`."""
        return fill(self._memory[number])
