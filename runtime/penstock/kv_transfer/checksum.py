"""The checksum that two pods compare of a block, and that a file keeps: CRC-32 (zlib's)."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def checksum_of(block: NDArray[np.uint8]) -> int:
    """CRC-32 of a block, uint8 [block_bytes]; lets go of the interpreter meanwhile."""
    return zlib.crc32(block.data)
