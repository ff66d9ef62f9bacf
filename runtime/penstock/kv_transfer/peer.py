"""One prefill pod as this pod knows it."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from penstock.internal.credentials import Caller
from penstock.internal.protocol import KvEndpoint, Load

SMOOTHING_BYTES = 256 << 20  # of transfers after which a measurement of the link counts for a third


class PeerState(enum.Enum):
    """Whether a peer can be asked."""

    NEW = "new"  # never heard of
    DOWN = "down"
    REFUSED = "refused"  # it answers, but does not belong to us
    MEETING = "meeting"  # its memory is being made known to our worker
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """What the step loop needs to know of a peer that can be asked."""

    peer: int
    names: frozenset[str]  # addresses by which somebody may name it
    num_queued: int  # prompt tokens that wait there
    rate: float  # tokens/s; 0: not measured
    bytes_per_second: float  # of the link; 0: not measured
    max_tokens: int  # of a prompt there


@dataclass(slots=True, kw_only=True)
class Peer:
    """The state of one address; `number` is new in each life of its engine, so that nothing of a past one is taken
    for this one's."""

    address: str  # IP and port
    names: set[str]  # how the address was configured; empty: it is not wanted any more
    caller: Caller
    state: PeerState = PeerState.NEW
    why: str = ""  # it is not up
    number: int | None = None  # while our worker knows it
    load: Load | None = None
    endpoint: KvEndpoint | None = None
    num_missed: int = 0  # answers, in a row
    retry_at: float = 0.0  # of meeting it, after that failed
    num_meetings_failed: int = 0
    wanted_until: float = math.inf  # when it is forgotten
    moved_bytes: float = 0.0  # recent transfers, older ones fading …
    moved_seconds: float = 0.0

    @property
    def url(self) -> str:
        """Where its internal port answers."""
        return f"http://{self.address}"

    @property
    def bytes_per_second(self) -> float:
        """Of recent transfers; 0 if there were none."""
        return self.moved_bytes / self.moved_seconds if self.moved_seconds > 0 else 0.0

    @property
    def view(self) -> PeerView | None:
        """What the step loop may know, or None if the peer cannot be asked."""
        load, is_up = self.load, self.state is PeerState.UP and bool(self.names)
        if not is_up or self.number is None or load is None or load.draining or not load.ready:
            return None
        return PeerView(
            peer=self.number,
            names=frozenset(self.names | {self.address}),
            num_queued=load.queued_tokens,
            rate=load.prefill_rate or 0.0,
            bytes_per_second=self.bytes_per_second,
            max_tokens=min(load.max_model_len - 1, load.capacity_tokens),
        )

    def moved(self, num_bytes: int, seconds: float) -> None:
        """A transfer took that long."""
        fading = max(0.0, 1 - num_bytes / SMOOTHING_BYTES) if self.moved_bytes > SMOOTHING_BYTES else 1.0
        self.moved_bytes = self.moved_bytes * fading + num_bytes
        self.moved_seconds = self.moved_seconds * fading + seconds
