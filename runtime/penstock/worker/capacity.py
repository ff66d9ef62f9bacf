"""What a worker tells of itself when it has loaded. No torch: the engine core reads it."""

from __future__ import annotations

import msgspec


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker learnt while loading."""

    num_blocks: int  # KV blocks, the dummy block 0 included
    block_bytes: int
    weights_bytes: int
    load_seconds: float
    depth: int = 1  # steps that may be in flight at once
    phases: dict[str, float] = {}  # seconds of each part of the start, by `worker.phases.PHASES`
    memory: dict[str, int] = {}  # bytes of the device by `worker.gpu.memory.COMPONENTS`; a CPU counts none
    headroom_bytes: int = 0  # of the device that nobody has taken
