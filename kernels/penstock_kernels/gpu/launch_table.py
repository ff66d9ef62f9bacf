"""How each kernel is cut and run on which GPU: a table beside this file, which `penstock_kernels.gpu.tune` writes.

An entry names an op and, where it is not for all, a dtype, a range of sizes and compute capabilities; the last entry
that fits counts. What an op calls its size and its tile:

| op | dtype of | size | tile |
|---|---|---|---|
| `paged_attention_decode`, `paged_attention_chunk` | cache | elements of a head | rows (tokens x group), keys |
| `fixed_matmul` | weight | columns of the result | rows, columns, depth |
| `matvec` | weight | columns of the result | columns (x rows x 2 if gated), depth |
| `gated_activation` | rows | elements of a row | elements |
| `sample_tokens`, `gather_logprobs` | logits | vocabulary | tokens looked at together |
| `copy_blocks` | always int32 | words of a block | words |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

HOPPER = 90  # for tensors that are on no GPU: what is compiled ahead of time
TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchShape:
    """Tile, warps of a program and stages of its loops' pipelines."""

    tile: tuple[int, ...]
    warps: int
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A shape and what it is for; empty or None: for all."""

    op: str
    shape: LaunchShape
    dtype: str | None = None  # torch's name
    sizes: tuple[int, int] | None = None  # from, to
    capabilities: tuple[int, ...] = ()

    def fits(self, op: str, dtype: str, size: int, capability: int) -> bool:
        """Whether it is for that op on that GPU."""
        return (
            self.op == op
            and self.dtype in (None, dtype)
            and (self.sizes is None or self.sizes[0] <= size <= self.sizes[1])
            and (not self.capabilities or capability in self.capabilities)
        )


def entries_from(text: str) -> tuple[Entry, ...]:
    """The entries of a table as it stands in its file."""
    return tuple(
        Entry(
            op=one["op"],
            shape=LaunchShape(tile=tuple(one["tile"]), warps=one["warps"], stages=one["stages"]),
            dtype=one.get("dtype"),
            sizes=tuple(one["sizes"]) if "sizes" in one else None,
            capabilities=tuple(one.get("capabilities", ())),
        )
        for one in json.loads(text)
    )


def text_of(entries: tuple[Entry, ...]) -> str:
    """The file of a table: one entry on each line."""
    lines = []
    for entry in entries:
        line: dict[str, Any] = {"op": entry.op}
        if entry.dtype is not None:
            line["dtype"] = entry.dtype
        if entry.sizes is not None:
            line["sizes"] = entry.sizes
        if entry.capabilities:
            line["capabilities"] = entry.capabilities
        line |= {"tile": entry.shape.tile, "warps": entry.shape.warps, "stages": entry.shape.stages}
        lines.append(f"  {json.dumps(line)}")
    return "[\n" + ",\n".join(lines) + "\n]\n"


def launch_shape(op: str, *, dtype: torch.dtype, size: int, device: torch.device) -> LaunchShape:
    """How to run `op` on that device. Raises KeyError if the table does not know the op."""
    return _found(op, str(dtype).removeprefix("torch."), size, capability_of(device))


@cache
def capability_of(device: torch.device) -> int:
    """Of a GPU, as 90 for 9.0."""
    if device.type != "cuda":
        return HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def table() -> tuple[Entry, ...]:
    """The entries of the checked-in table."""
    return entries_from(TABLE.read_text())


@cache
def _found(op: str, dtype: str, size: int, capability: int) -> LaunchShape:
    fitting = [entry.shape for entry in table() if entry.fits(op, dtype, size, capability)]
    if not fitting:
        raise KeyError(f"no entry for op {op!r} in {TABLE.name}")
    return fitting[-1]
