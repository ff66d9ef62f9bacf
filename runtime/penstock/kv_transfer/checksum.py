"""The checksum that two pods compare of a block, and that the offload tier keeps of it.

CRC-32 over everything runs at 1 to 4 GB/s, a third of what copying by shared memory reaches. So the block is first
folded: its 64-bit words are added up in 521 columns (a prime, so that nothing page-sized which moves stays in its
column), and CRC-32 is of the sums: 20 GB/s.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

NUM_COLUMNS = 521
WORD = 8


def checksum_of(block: NDArray[np.uint8]) -> int:
    """32 bits of a block, uint8 [block_bytes]; any change within one word always changes it."""
    num_words = len(block) // WORD
    words = block[: num_words * WORD].view(np.uint64)
    whole = num_words // NUM_COLUMNS * NUM_COLUMNS
    sums = np.add.reduce(words[:whole].reshape(-1, NUM_COLUMNS), axis=0)
    sums[: num_words - whole] += words[whole:]
    return zlib.crc32(sums.data, zlib.crc32(block[num_words * WORD :].data))
