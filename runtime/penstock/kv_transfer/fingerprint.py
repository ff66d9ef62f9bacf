"""What must be the same on both sides before a KV block of one may be used by the other.

Torch-free and quick: of the weights it reads headers and samples, not gigabytes.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.config import EngineConfig
from penstock.loader.sources import weight_files

FORMAT = 1  # of blocks, of their names and of the messages about them
SAMPLES, SAMPLE_BYTES = 64, 4096  # of each file of weights; smaller tensors are taken in whole
LONGEST_HEADER = 16 << 20  # bytes


class Entry(msgspec.Struct):
    """What a safetensors header says of one name; nothing of interest of its metadata."""

    data_offsets: tuple[int, int] | None = None


class Digest(Protocol):
    """What is needed of a hash object."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""


def fingerprint_of(config: EngineConfig, folder: Path, world_size: int) -> str:
    """32 hexadecimal digits that depend on the model, on how it computes and on how blocks are laid out.

    Raises `ModelError` for a folder without weights.
    """
    dtype = "bfloat16" if config.model.dtype == "auto" else config.model.dtype
    kv_dtype = dtype if config.cache.kv_cache_dtype == "auto" else config.cache.kv_cache_dtype
    layout = (FORMAT, dtype, kv_dtype, config.model.quantization, config.cache.block_size, world_size)
    digest = blake2b(repr(layout).encode(), digest_size=16)
    for name in ("config.json", "tokenizer.json"):
        if (file := folder / name).is_file():
            digest.update(blake2b(file.read_bytes()).digest())
    for file in weight_files(folder):
        sample(digest, file)
    return digest.hexdigest()


def sample(digest: Digest, file: Path) -> None:
    """Take in a safetensors file's size, its header, its small tensors, and evenly spread parts up to its last bytes.

    Small tensors are a few bytes that change what all others mean, such as the scales of a float8 cache.
    """
    size = file.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = handle.read(min(length, LONGEST_HEADER))
        digest.update(header)
        places = [max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1) for number in range(SAMPLES)]
        places += [8 + length + begin for begin in small_tensors(header)]
        for place in places:
            handle.seek(min(place, size))
            digest.update(handle.read(SAMPLE_BYTES))


def small_tensors(header: bytes) -> list[int]:
    """Where tensors of at most `SAMPLE_BYTES` begin, after the header; none where it cannot be read."""
    try:
        entries = msgspec.json.decode(header, type=dict[str, Entry])
    except msgspec.MsgspecError:  # who loads the weights says so
        return []
    places = (entry.data_offsets for entry in entries.values() if entry.data_offsets is not None)
    return [begin for begin, end in places if 0 <= begin <= end <= begin + SAMPLE_BYTES]
