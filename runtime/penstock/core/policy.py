"""Pure choices of the scheduler: who goes first, who is preempted, how a token budget is shared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import Ints
from penstock.core.request import Request

Rank = tuple[int, float]  # smaller runs first; ties are broken by order of arrival at the engine


def fcfs(request: Request) -> Rank:
    """First come, first served."""
    return (0, request.arrival)


def by_priority(request: Request) -> Rank:
    """Lower `priority` first, then first come, first served."""
    return (request.priority, request.arrival)


POLICIES: dict[str, Callable[[Request], Rank]] = {"fcfs": fcfs, "priority": by_priority}


def choose_victim(priority: NDArray[np.int32], sequence: NDArray[np.int64], redo: NDArray[np.int32]) -> int | None:
    """Index of the row to preempt when blocks run out, or None if there is only one row.

    The oldest row of the least urgent class is spared while it has company, so that somebody always finishes.
    # all [num_rows]; redo: tokens that would be computed again
    """
    if len(priority) < 2:
        return None
    candidates = (priority == priority.max()).nonzero()[0]
    if len(candidates) > 1:
        candidates = np.delete(candidates, sequence[candidates].argmin())
    return int(candidates[cheapest(sequence[candidates], redo[candidates])])


def cheapest(sequence: NDArray[np.int64], redo: NDArray[np.int32]) -> int:
    """Index of the row with the least work to redo, the youngest on ties. # both [num_rows], not empty"""
    return int(np.lexsort((-sequence, redo))[0])


def share_budget(want: NDArray[np.int32], budget: int, chunk_budget: int, has_waiting: bool) -> Ints:
    """Tokens that each running row gets: first everyone that wants one, then prompt chunks in the rows' order.

    Chunks together take at most `chunk_budget`; while others wait for their turn, one chunk takes at most half of it.
    # want: [num_rows] -> [num_rows]
    """
    is_chunk = want > 1
    if not is_chunk.any():
        return want if want.size <= budget else np.minimum(want, np.arange(want.size) < budget).astype(np.int32)
    grant = np.where(is_chunk, 0, want).astype(np.int32)
    chunks = is_chunk.nonzero()[0]
    room = max(0, min(chunk_budget, budget - int(grant.sum())))
    share = max(1, room // 2) if has_waiting or len(chunks) > 1 else room
    grant[chunks] = fill_in_order(np.minimum(want[chunks], share), room)
    return grant


def fill_in_order(want: NDArray[np.int32], room: int) -> Ints:
    """Grant each entry what it wants until `room` is used up. # [n] -> [n]"""
    before = np.cumsum(want) - want
    granted: Ints = np.clip(room - before, 0, want).astype(np.int32)
    return granted
