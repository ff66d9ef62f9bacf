"""Pure rules about health: does the engine make progress, and may it be started again?"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

STALL_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class Progress:
    """Progress, not pulse: healthy unless work is pending and no step has been seen for `limit` seconds."""

    limit: float = STALL_SECONDS
    num_steps: int = 0
    last: float = 0.0  # when there was last a step, or nothing to do

    def reset(self, now: float) -> None:
        """The engine is new, or work begins: count from `now`."""
        self.num_steps, self.last = 0, now

    def saw_step(self, now: float) -> None:
        """A step's outputs arrived."""
        self.last = now

    def saw_counter(self, num_steps: int, now: float) -> None:
        """The engine said how many steps it has made; only a changed counter is progress."""
        if num_steps != self.num_steps:
            self.num_steps, self.last = num_steps, now

    def is_healthy(self, now: float, *, is_pending: bool) -> bool:
        """False if work has waited for `limit` seconds without one step."""
        return not is_pending or now - self.last < self.limit


@dataclass(slots=True, kw_only=True)
class RestartPolicy:
    """When a process that died may start again: at once at first, then with growing pauses, then not at all.

    Front-ends end a request that was in flight at two deaths, so a poison request uses up two of `limit`.
    """

    limit: int = 5  # deaths within `window` seconds that end it
    window: float = 60.0
    first_pause: float = 0.5
    _deaths: deque[float] = field(default_factory=deque)

    def pause_after_death(self, now: float) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        self._deaths.append(now)
        while self._deaths[0] <= now - self.window:
            self._deaths.popleft()
        if len(self._deaths) >= self.limit:
            return None
        return 0.0 if len(self._deaths) <= 2 else self.first_pause * 2 ** (len(self._deaths) - 3)
