"""A clock that a test moves on."""

from __future__ import annotations


class Clock:
    """Seconds: `clock()` reads it, `clock.now` sets it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
