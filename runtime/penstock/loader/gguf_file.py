"""Read the header of a GGUF file (versions 2 and 3) and map its tensors, without copying them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Everything read is checked against the file's size,
so that a truncated or corrupt file ends in a `ModelError`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ModelError

STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
MAX_DIMENSIONS = 4
# What llama.cpp calls the types; the ones with a block layout below are read, the others are named in the error.
TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    29: "IQ1_M", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
# name -> (elements, bytes) of a block
BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q6_K": (256, 210),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor as it lies in the file."""

    name: str
    kind: str  # a key of BLOCKS
    shape: tuple[int, ...]  # row-major, the outermost dimension first
    data: NDArray[np.uint8]  # [rows, bytes of a row], a view of the file


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """Metadata and tensors of a GGUF file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Map the file and read its header. Raises `ModelError` for anything that is not a whole, known GGUF file."""
        try:
            with path.open("rb") as file:
                buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: cannot be read: {error}") from error
        try:
            return read(path, buffer)
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise ModelError(f"{path}: truncated or corrupt GGUF file") from error


class Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.buffer = buffer
        self.offset = 0

    def take(self, layout: str) -> Any:
        """The next value of a `struct` layout with one item."""
        (value,) = struct.unpack_from(layout, self.buffer, self.offset)
        self.offset += struct.calcsize(layout)
        return value

    def skip(self, size: int) -> int:
        """Pass over `size` bytes and return where they begin."""
        start = self.offset
        if size > len(self.buffer) - start:
            raise struct.error("beyond the end of the file")
        self.offset += size
        return start

    def string(self) -> str:
        """The next string."""
        size = self.take("<Q")
        start = self.skip(size)
        return self.buffer[start : start + size].decode()

    def value(self) -> Any:
        """The next metadata value with its type in front: a scalar, a string, an array or a list of strings."""
        kind = self.take("<I")
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.numbers(kind, 1)[0].item()
        kind, count = self.take("<I"), self.take("<Q")
        if kind == STRING:
            return [self.string() for _ in range(count)]
        return self.numbers(kind, count)

    def numbers(self, kind: int, count: int) -> NDArray[Any]:
        """The next `count` scalars of a metadata type."""
        if kind not in SCALARS:
            raise struct.error(f"metadata of type {kind}")
        dtype = np.dtype(SCALARS[kind])
        start = self.skip(count * dtype.itemsize)
        return np.frombuffer(self.buffer, dtype, count, start)


def read(path: Path, buffer: mmap.mmap) -> GgufFile:
    """Read the header that `buffer` begins with. Raises `struct.error` where the file ends too early."""
    cursor = Cursor(buffer)
    if buffer[:4] != b"GGUF":
        raise ModelError(f"{path}: not a GGUF file")
    cursor.skip(4)
    version = cursor.take("<I")
    if version not in (2, 3):
        raise ModelError(f"{path}: GGUF version {version} is not supported; versions 2 and 3 (little-endian) are")
    num_tensors, num_values = cursor.take("<Q"), cursor.take("<Q")
    metadata = {}
    for _ in range(num_values):
        key = cursor.string()
        metadata[key] = cursor.value()
    headers = [read_tensor_header(cursor) for _ in range(num_tensors)]
    alignment = int(metadata.get("general.alignment", 32))
    if alignment < 1:
        raise struct.error("alignment")
    start = -(-cursor.offset // alignment) * alignment
    tensors = {
        name: map_tensor(path, buffer, start + offset, name, shape, kind) for name, shape, kind, offset in headers
    }
    return GgufFile(path=path, metadata=metadata, tensors=tensors)


def read_tensor_header(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, type, offset) of the next tensor."""
    name = cursor.string()
    num_dimensions = cursor.take("<I")
    if num_dimensions > MAX_DIMENSIONS:
        raise struct.error(f"{num_dimensions} dimensions")
    shape = tuple(cursor.take("<Q") for _ in range(num_dimensions))
    return name, shape[::-1], cursor.take("<I"), cursor.take("<Q")


def map_tensor(
    path: Path, buffer: mmap.mmap, offset: int, name: str, shape: tuple[int, ...], type_id: int
) -> GgufTensor:
    """A view of one tensor's bytes. Raises `ModelError` for a type that is not read here and beyond the file's end."""
    kind = TYPE_NAMES.get(type_id, f"number {type_id}")
    if kind not in BLOCKS:
        raise ModelError(f"{path}: tensor {name} has the type {kind}; supported are {', '.join(BLOCKS)}")
    elements, size = BLOCKS[kind]
    columns = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    if columns % elements:
        raise struct.error("row length")
    row_bytes = columns // elements * size
    if offset + rows * row_bytes > len(buffer):
        raise ModelError(f"{path}: truncated: tensor {name} ends beyond the end of the file; fetch the file again")
    data = np.frombuffer(buffer, np.uint8, rows * row_bytes, offset).reshape(rows, row_bytes)
    return GgufTensor(name=name, kind=kind, shape=shape, data=data)
