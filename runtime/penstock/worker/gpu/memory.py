"""What the memory of a GPU goes to, counted before it is taken, and how much of it keys and values get.

```
0                                                                                   --gpu-memory-utilization       total
│ others │ weights │ workspace … sampling │ libraries │ graphs │ kv_cache              │            headroom         │
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from penstock.config import EngineConfig
from penstock.errors import OutOfMemory
from penstock.worker.components import COMPONENTS
from penstock.worker.kv_memory import NUM_DUMMY_BLOCKS, KVLayout, fit_blocks

LIBRARY_BYTES = 256 << 20  # what libraries of matmuls and modules of kernels take as they are used, beyond the start
GRAPH_BYTES_PER_LAYER = 320 << 10  # of a captured step, kept by the driver: about 10 MiB for 32 layers
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The memory of a GPU at one moment, in bytes."""

    free: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Who gets what, in bytes."""

    total: int
    parts: Mapping[str, int]  # by `COMPONENTS`; what is not there takes nothing
    num_blocks: int = 0  # of the KV cache

    @property
    def taken(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def headroom(self) -> int:
        """What is nobody's."""
        return self.total - self.taken

    def to_fields(self) -> dict[str, Any]:
        """The plan as one line of the log, in MiB."""
        sizes = {name: self.parts[name] for name in COMPONENTS if name in self.parts}
        return {name: f"{size / MIB:,.0f}MiB" for name, size in (sizes | {"headroom": self.headroom}).items()}


def graph_bytes(num_layers: int, num_graphs: int) -> int:
    """What the driver keeps for so many captured steps, roughly."""
    return num_graphs * num_layers * GRAPH_BYTES_PER_LAYER


def fixed_plan(needs: Mapping[str, int], before: Probe) -> MemoryPlan:
    """All but the KV cache. `needs`: bytes by component. `before`: the GPU when nothing of ours was there yet."""
    needed = {"libraries": LIBRARY_BYTES} | dict(needs)
    assert needed.keys() <= set(COMPONENTS), f"unknown components: {needed.keys() - set(COMPONENTS)}"
    return MemoryPlan(total=before.total, parts={"others": before.total - before.free} | needed)


def with_overhead(plan: MemoryPlan, taken: int) -> MemoryPlan:
    """The plan once `taken` bytes have been, for what is in it except graphs and what libraries will need: what was
    more than counted (allocators round up, libraries were loaded) is theirs too."""
    counted = plan.taken - sum(plan.parts[name] for name in ("others", "libraries", "graphs") if name in plan.parts)
    return replace(plan, parts={**plan.parts, "libraries": LIBRARY_BYTES + max(0, taken - counted)})


def with_kv_cache(plan: MemoryPlan, layout: KVLayout, config: EngineConfig, max_model_len: int) -> MemoryPlan:
    """The plan with the KV cache: `--kv-cache-memory`, else what `--gpu-memory-utilization` leaves.

    Raises `OutOfMemory`, saying what to change, if that does not hold one request.
    """
    asked, utilization = config.cache.kv_cache_memory, config.cache.gpu_memory_utilization
    limit = plan.total if asked is not None else int(plan.total * utilization)
    room = limit - plan.taken
    if room < (NUM_DUMMY_BLOCKS + 1) * layout.block_bytes:
        raise OutOfMemory(_too_full(plan, limit, config))
    if asked is not None and asked > room:
        raise OutOfMemory(
            f"too little GPU memory: --kv-cache-memory asks for {asked / MIB:,.0f} MiB, and {room / MIB:,.0f} of "
            f"{plan.total / MIB:,.0f} MiB are left ({_shares(plan)}); use --kv-cache-memory {room // MIB}MiB or less"
        )
    remedy = f"a higher --gpu-memory-utilization than {utilization:g}" if utilization < 0.95 else "a larger GPU"
    num_blocks = fit_blocks(layout, config, max_model_len, room if asked is None else asked, remedy)
    return replace(plan, num_blocks=num_blocks, parts={**plan.parts, "kv_cache": num_blocks * layout.block_bytes})


def _too_full(plan: MemoryPlan, limit: int, config: EngineConfig) -> str:
    """One line: what is needed, what there is, and what to change first."""
    others = plan.parts.get("others", 0)
    if limit < plan.total and plan.taken < 0.97 * plan.total:
        remedy = f"raise --gpu-memory-utilization {config.cache.gpu_memory_utilization:g}"
    elif others > 0.1 * plan.total:
        remedy = "end what else runs on this GPU"
    elif plan.parts.get("weights", 0) > 0.8 * limit:
        remedy = "take a smaller model or a larger GPU"
    else:
        remedy = "lower --max-num-batched-tokens and --max-num-seqs"
    return (
        f"too little GPU memory: {plan.taken / MIB:,.0f} MiB are needed without a KV cache ({_shares(plan)}) and "
        f"{limit / MIB:,.0f} of {plan.total / MIB:,.0f} MiB may be taken; {remedy}"
    )


def _shares(plan: MemoryPlan) -> str:
    """The largest parts in words."""
    largest = sorted(plan.parts.items(), key=lambda part: part[1], reverse=True)[:4]
    return ", ".join(f"{name.replace('_', ' ')} {size / MIB:,.0f}" for name, size in largest)
