"""Names of KV blocks: a chained, keyed hash for each full block of tokens.

Two blocks share a name only if everything before them is the same too, and only within one salt: the chain starts at
`root_hash`. The names are the same in every process, on every machine and after a restart.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 16  # 128 bits: a chance collision among 10**12 blocks has a probability below 10**-14


def root_hash(salt: str | None = None) -> bytes:
    """Where a chain starts: 16 bytes that no other salt shares. An empty salt is not the same as none."""
    if salt is None:
        return blake2b(b"penstock", digest_size=HASH_BYTES).digest()
    return blake2b(salt.encode(), digest_size=HASH_BYTES, person=b"penstock salt").digest()


def hash_blocks(parent: bytes, token_ids: NDArray[np.int32], block_size: int) -> list[bytes]:
    """Hashes of the full blocks of `token_ids` [n], which follow the block named `parent`; a partial block has none.

    One BLAKE2b compression for up to 28 tokens (16 bytes of parent, 4 per token), so that a long prompt costs about a
    microsecond per block.
    """
    data = np.ascontiguousarray(token_ids, dtype="<i4").tobytes()
    width = 4 * block_size
    hashes = []
    for start in range(0, len(data) - width + 1, width):
        parent = blake2b(parent + data[start : start + width], digest_size=HASH_BYTES).digest()
        hashes.append(parent)
    return hashes
