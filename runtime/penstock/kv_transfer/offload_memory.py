"""The first offload tier: blocks in host memory, oldest use first out."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray


class MemoryTier:
    """Blocks in host memory. The memory is taken once, and a page of it only once it is written."""

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        self._blocks: NDArray[np.uint8] = np.empty((num_blocks, block_bytes), dtype=np.uint8)
        self._free = list(range(num_blocks - 1, -1, -1))
        self._held: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # hash -> place, CRC-32; oldest use first

    def __contains__(self, name: bytes) -> bool:
        return name in self._held

    @property
    def oldest(self) -> bytes | None:
        """The block that goes next, if there is no room for another."""
        return None if self._free else next(iter(self._held), None)

    def put(self, name: bytes, block: NDArray[np.uint8], checksum: int) -> None:
        """Keep a copy; there must be room."""
        place = self._free.pop()
        self._blocks[place] = block
        self._held[name] = place, checksum

    def get(self, name: bytes) -> tuple[NDArray[np.uint8], int]:
        """The block and its checksum."""
        place, checksum = self._held[name]
        return self._blocks[place], checksum

    def touch(self, name: bytes) -> None:
        """It is the one that was used last now."""
        self._held.move_to_end(name)

    def drop(self, name: bytes) -> None:
        """Forget a block."""
        self._free.append(self._held.pop(name)[0])
