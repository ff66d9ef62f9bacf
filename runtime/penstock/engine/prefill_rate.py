"""How fast this engine computes prompts."""

from __future__ import annotations

import math

LEAST_TOKENS = 96  # a step with fewer tells what a step costs, or what short prompts do, not long ones
FADING_SECONDS = 10.0  # of computing, after which a measurement counts for a third
SLOWEST = 4.0  # times as long as usual: a step that took longer was stopped in between, which says nothing of the rest


class PrefillRate:
    """Tokens per second over the recent steps that had prompt chunks, whatever else was in them."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step computed so many prompt tokens; steps with hardly any are ignored."""
        if num_tokens >= LEAST_TOKENS:
            if self._seconds:
                seconds = min(seconds, SLOWEST * num_tokens / self.value)
            fading = math.exp(-seconds / FADING_SECONDS)
            self._tokens = self._tokens * fading + num_tokens
            self._seconds = self._seconds * fading + seconds

    @property
    def value(self) -> float:
        """Tokens/s; 0 if nothing was measured yet."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0
