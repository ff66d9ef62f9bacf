"""How much prompt is still to be computed."""

from __future__ import annotations

from penstock.core.scheduler import Scheduler


def num_tokens_left(scheduler: Scheduler) -> int:
    """Tokens of waiting requests, and of running ones those of their prompts that are not computed yet."""
    rows, table = scheduler.running, scheduler.table
    left = table.num_known[rows] - table.num_computed[rows]
    return scheduler.waiting.num_tokens + int(left[left > 1].sum())
