"""Write a safetensors file tensor by tensor, so that memory holds one tensor at a time.

Format: https://huggingface.co/docs/safetensors (eight bytes of header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEM_BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor to write."""

    name: str
    dtype: str  # a key of ITEM_BYTES
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """Tensors that are produced together, in the order of `entries`."""

    entries: tuple[TensorEntry, ...]
    produce: Callable[[], tuple[NDArray[Any], ...]]


def write_tensors(
    path: Path, groups: Iterable[TensorGroup], metadata: Mapping[str, str], on_group: Callable[[], None]
) -> None:
    """Write all groups; `on_group` is called after each. `metadata` goes into the header."""
    groups = tuple(groups)
    entries = [entry for group in groups for entry in group.entries]
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offsets: dict[str, int] = {}
    offset = 0
    for entry in sorted(entries, key=lambda entry: -ITEM_BYTES[entry.dtype]):  # so that each is aligned to its items
        offsets[entry.name] = offset
        end = offset + entry.nbytes
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for group in groups:
            for entry, array in zip(group.entries, group.produce(), strict=True):
                assert array.nbytes == entry.nbytes, f"{entry.name}: {array.nbytes} bytes instead of {entry.nbytes}"
                file.seek(8 + len(text) + offsets[entry.name])
                file.write(np.ascontiguousarray(array).data)
            on_group()
