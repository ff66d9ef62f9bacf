"""KV blocks that left the cache: in host memory and in files, each bounded and oldest use first out.

Memory holds what was stored last. Every block is also written to a file while nothing else is to do, so that what is
kept survives a restart, also a sudden one.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.config import TransferConfig
from penstock.errors import ConfigError
from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.offload_files import FileTier
from penstock.kv_transfer.offload_memory import MemoryTier


class OffloadTier:
    """Both tiers as one: memory first, then files."""

    def __init__(self, memory: MemoryTier, files: FileTier | None) -> None:
        self._memory, self._files = memory, files
        self._unwritten: OrderedDict[bytes, None] = OrderedDict()  # in memory, and not tried in files yet
        self._dropped: list[bytes] = []

    def __contains__(self, name: bytes) -> bool:
        return name in self._memory or (self._files is not None and name in self._files)

    @property
    def names(self) -> list[bytes]:
        """What an earlier life left, oldest use first."""
        return [] if self._files is None else self._files.names

    @property
    def has_unwritten(self) -> bool:
        """True if `write_one` has something to do."""
        return bool(self._unwritten)

    def store(self, name: bytes, block: NDArray[np.uint8]) -> None:
        """Keep a copy of a block [block_bytes]."""
        if name in self._memory:
            self._memory.touch(name)
        elif self._files is not None and name in self._files:
            self._files.touch(name)
        else:
            if (oldest := self._memory.oldest) is not None:
                self._evict(oldest)
            self._memory.put(name, block, checksum_of(block))
            if self._files is not None:
                self._unwritten[name] = None

    def fetch(self, name: bytes, block: NDArray[np.uint8]) -> bool:
        """Fill `block` with what `name` says; False if that is not to be had (then `block` holds anything)."""
        if name in self._memory:
            held, checksum = self._memory.get(name)
            self._memory.touch(name)
            block[:] = held
            if checksum_of(block) == checksum:
                return True
            self._memory.drop(name)
            self._unwritten.pop(name, None)
        if self._files is not None and name in self._files and self._files.get(name, block):
            return True
        self._dropped.append(name)
        return False

    def write_one(self) -> None:
        """Write the block that waits longest to a file."""
        self._write(self._unwritten.popitem(last=False)[0])

    def take_dropped(self) -> list[bytes]:
        """What neither tier holds any more, since the last call."""
        dropped, self._dropped = [name for name in dict.fromkeys(self._dropped) if name not in self], []
        return dropped

    def close(self) -> None:
        """Write what is not written yet, and let the folder go."""
        while self._unwritten:
            self.write_one()
        if self._files is not None:
            self._files.close()

    def _evict(self, name: bytes) -> None:
        """Out of memory, to its file if it was not written yet."""
        if name in self._unwritten:
            del self._unwritten[name]
            self._write(name)
        self._memory.drop(name)
        self._dropped.append(name)

    def _write(self, name: bytes) -> None:
        assert self._files is not None, "without files nothing waits to be written"
        self._dropped += self._files.put(name, *self._memory.get(name))


def build_tier(config: TransferConfig, fingerprint: str, block_bytes: int) -> OffloadTier | None:
    """The tiers that the configuration asks for; None for none. Raises `ConfigError`."""
    budget, folder = config.kv_offload_memory, config.kv_offload_folder
    if budget is None:
        return None
    if budget < block_bytes:
        raise ConfigError("kv_offload_memory", f"{budget:,} bytes hold no block of {block_bytes:,} bytes")
    files = None
    if folder is not None:
        files = FileTier(Path(folder).expanduser(), config.kv_offload_file_bytes, fingerprint, block_bytes)
    return OffloadTier(MemoryTier(budget // block_bytes, block_bytes), files)
