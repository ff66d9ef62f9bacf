"""Whether a prompt is prefilled here or by a peer: what each would cost in seconds, corrected by how it went so far.

Pure: loads, rates and the time come in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

GRACE_SECONDS = 0.25  # differences below this are noise
ASSUMED_RATE = 1000.0  # tokens/s, of both sides while neither has measured its own
SMOOTHING = 0.3  # weight of the newest measurement
FORGET_SECONDS = 5.0  # after which half of what was learnt about a peer's slowness is forgotten
SLOW_FACTOR = 3.0  # later than this many times the prediction is as bad as a failure
LONGEST_CORRECTION = 4.0
MOST_DELAYED = 4  # running streams whose delay counts: with more, the first token would wait for ever
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 64.0  # seconds without a peer that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A prompt that waits, and what it would cost here."""

    num_tokens: int  # not cached here
    num_bytes: int  # of their blocks
    num_queued: int  # prompt tokens to compute before it here
    num_running: int  # streams whose next tokens would wait while it is computed here
    rate: float  # tokens/s here; 0: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A peer that could do it."""

    peer: int
    num_queued: int  # prompt tokens to compute before it there, as it told last
    num_pending: int  # … and as we know from our own fetches
    rate: float  # tokens/s there; 0: not measured
    bytes_per_second: float  # of the link; 0: not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The decision: a peer, or None to prefill here, and why."""

    peer: int | None
    why: str  # one word: short, alone, paused, queue, cost; remote
    seconds: float = 0.0  # predicted for the peer; 0: without measurements nothing is predicted


@dataclass(slots=True)
class Experience:
    """How a peer did so far."""

    correction: float = 1.0  # actual by predicted seconds, smoothed
    corrected_at: float = 0.0
    num_failures: int = 0  # since the last success
    paused_until: float = 0.0
    asked_at: float = 0.0  # the last time, or when it was first seen

    def trust_at(self, now: float) -> float:
        """What its measured slowness counts for, 1 to 0: who is never asked would be taken for slow for ever."""
        return math.exp2(-max(0.0, now - self.asked_at) / FORGET_SECONDS)

    def correction_at(self, now: float) -> float:
        """The correction, on its way back to 1."""
        age = max(0.0, now - self.corrected_at)
        return 1.0 + (self.correction - 1.0) * math.exp2(-age / FORGET_SECONDS)


class Decider:
    """Chooses the cheapest peer if it is worth it, and learns from how it went."""

    def __init__(self, min_tokens: int, slack: float) -> None:
        self._min_tokens, self._slack = min_tokens, slack
        self._experience: dict[int, Experience] = {}

    def choose(self, need: Need, candidates: Sequence[Candidate], now: float) -> Choice:
        """The peer to ask, or None: what is compared is the time that everybody waits, running streams too."""
        if need.num_tokens < self._min_tokens:
            return Choice(peer=None, why="short")
        if not candidates:
            return Choice(peer=None, why="alone")
        active = [each for each in candidates if now >= self._of(each.peer, now).paused_until]
        if not active:
            return Choice(peer=None, why="paused")
        rate = need.rate or next((each.rate for each in active if each.rate), ASSUMED_RATE)
        queue_here, work_here = need.num_queued / rate, need.num_tokens / rate
        allowance = work_here * min(need.num_running, MOST_DELAYED) + GRACE_SECONDS
        cost, queue, best = min(
            ((*self._cost_there(need, each, now), each) for each in active), key=lambda item: (item[0], item[2].peer)
        )
        if queue > queue_here + allowance:
            return Choice(peer=None, why="queue", seconds=cost)
        if cost > (queue_here + work_here) * self._slack + allowance:
            return Choice(peer=None, why="cost", seconds=cost)
        self._of(best.peer, now).asked_at = now
        return Choice(peer=best.peer, why="remote", seconds=cost if best.rate else 0.0)

    def succeeded(self, peer: int, predicted: float, actual: float, now: float) -> None:
        """A fetch that was predicted to take that long (0: nothing was predicted) took this long."""
        experience = self._of(peer, now)
        if not predicted:
            experience.num_failures = 0
            return
        ratio = min(LONGEST_CORRECTION, max(actual, GRACE_SECONDS) / max(predicted, GRACE_SECONDS))
        before = experience.correction_at(now)
        experience.correction = before + SMOOTHING * (before * ratio - before)
        experience.correction = min(LONGEST_CORRECTION, max(1 / LONGEST_CORRECTION, experience.correction))
        experience.corrected_at = now
        if actual > SLOW_FACTOR * predicted + GRACE_SECONDS:
            self.failed(peer, now)
        else:
            experience.num_failures = 0

    def failed(self, peer: int, now: float) -> None:
        """A fetch failed: leave the peer alone for a while, twice as long each time in a row."""
        experience = self._of(peer, now)
        if now < experience.paused_until:
            return  # begun before the pause: the same failure
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**experience.num_failures)
        experience.paused_until = now + pause
        experience.num_failures += 1

    def forget(self, peer: int) -> None:
        """The peer has gone; what comes under its number again is another."""
        self._experience.pop(peer, None)

    def _cost_there(self, need: Need, candidate: Candidate, now: float) -> tuple[float, float]:
        """Seconds until the last block is here, and before it begins there; transfer and prefill overlap."""
        experience = self._of(candidate.peer, now)
        trust = experience.trust_at(now)
        rate = candidate.rate or need.rate or ASSUMED_RATE
        if need.rate > rate:
            rate += (need.rate - rate) * (1 - trust)
        queued = max(candidate.num_queued, candidate.num_pending)
        moving = need.num_bytes / candidate.bytes_per_second if candidate.bytes_per_second else 0.0
        cost = queued / rate + max(need.num_tokens / rate, moving * trust)
        return cost * experience.correction_at(now), queued / rate

    def _of(self, peer: int, now: float) -> Experience:
        return self._experience.setdefault(peer, Experience(asked_at=now))
