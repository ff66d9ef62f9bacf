"""What the memory of a GPU goes to, in the order of a start. No torch: the metrics are named after these."""

from __future__ import annotations

COMPONENTS = (
    "others",  # taken before the first byte of ours: the driver's context, and what other processes have
    "weights",
    "workspace",  # activations of the largest step
    "attention",  # schedules, and what is summed over parts
    "state_table",
    "sampling",
    "libraries",  # of matmuls, modules of kernels, what allocators round up
    "graphs",
    "kv_cache",
)
