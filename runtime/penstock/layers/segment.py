"""One piece of a step on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Work that is put on the current stream; the same memory each time, so that it can be captured in a graph."""

    run: Callable[[], None]
    is_attention: bool
    """It stays outside piecewise graphs: its work depends on more than the number of tokens."""
