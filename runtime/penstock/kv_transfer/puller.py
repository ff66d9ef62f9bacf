"""The decode side: the state of every fetch from a peer, from the call until nothing writes to its blocks any more.

```
           granted, computed …            all pulled
 waiting ───────────────────► pulling ───────────────► over
    │  failed, lost, stalled, cancelled  │                ▲
    └────────────────────────────────────┴─► draining ────┘  a READ may still write: blocks are busy
```
Pure: what happens comes in with the time, what to do goes out as actions. A block counts only if a pull that covers it
ended well, and only with all blocks before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.internal.protocol import Announcement, Computed, Ended, Granted
from penstock.kv_transfer.lease_table import NUM_LEASES


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPull:
    """READ these blocks."""

    pull: int
    peer: int
    remote: list[int]  # [n] block ids there …
    local: list[int]  # [n] … and here
    checksums: list[tuple[int, int]]  # (position, CRC-32)
    lease: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveLeaseBack:
    """Tell the peer that it need not hold the blocks any longer."""

    peer: int
    lease: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """End the call to the peer, if it is still open."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndArrival:
    """`Tickets.end_arrival`, and what there is to learn from it."""

    number: int
    num_good: int
    busy: list[int]  # block ids
    peer: int
    why: str = ""  # it failed, and the rest is to be computed here; empty: it was whole, or nobody wants it any more
    is_whole: bool = False
    is_death: bool = False  # the peer's engine died with this in flight
    began: float = 0.0  # the time that was passed to `begin`


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseArrival:
    """`Tickets.close_arrival`."""

    number: int


Action = StartPull | GiveLeaseBack | HangUp | EndArrival | CloseArrival


class BadAnnouncement(Exception):
    """A peer said what cannot be; its message says why."""


@dataclass(slots=True, kw_only=True)
class Pulling:
    """One READ that is not over."""

    number: int
    start: int  # position of its first block among those of the fetch
    local: list[int]


@dataclass(slots=True, kw_only=True)
class Fetch:
    """One arrival from one peer."""

    number: int
    peer: int
    start: int  # number of its first block among those of the prompt
    blocks: list[int]  # where it goes, block ids here
    num_remote_blocks: int  # block ids there are below this
    patience: float  # seconds that the peer may take to announce something
    began: float
    progress_at: float
    lease: Granted | None = None
    remote: set[int] = field(default_factory=set)  # block ids that were announced
    num_good: int = 0  # blocks from the first on that hold what they should
    good_ahead: dict[int, int] = field(default_factory=dict)  # start -> count of good ones that do not join up yet
    pulls: set[int] = field(default_factory=set)
    is_open: bool = True

    def add_good(self, start: int, count: int) -> None:
        """A pull of blocks `start …` ended well."""
        self.good_ahead[start] = count
        while self.num_good in self.good_ahead:
            self.num_good += self.good_ahead.pop(self.num_good)

    def check(self, computed: Computed) -> None:
        """Raise `BadAnnouncement` unless these blocks can be, and come next."""
        if self.lease is None:
            raise BadAnnouncement("blocks without a lease")
        if computed.start != self.start + len(self.remote):
            raise BadAnnouncement(f"blocks from {computed.start} on, not from {self.start + len(self.remote)}")
        new = set(computed.blocks)
        if not new or len(self.remote) + len(computed.blocks) > len(self.blocks):
            raise BadAnnouncement(f"{len(computed.blocks)} blocks where 1 to {len(self.blocks) - len(self.remote)} fit")
        if len(new) < len(computed.blocks) or new & self.remote:
            raise BadAnnouncement("a block twice")
        if min(new) < 1 or max(new) >= self.num_remote_blocks:
            raise BadAnnouncement("a block that it does not have")
        if any(not 0 <= position < len(computed.blocks) for position, _ in computed.checksums):
            raise BadAnnouncement("a checksum of no block")


class Puller:
    """All fetches of a pod."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall = stall_seconds
        self._fetches: dict[int, Fetch] = {}  # number -> open, or draining
        self._pulls: dict[int, Pulling] = {}
        self._num_pulls = 0

    def __contains__(self, number: int) -> bool:
        return number in self._fetches and self._fetches[number].is_open

    @property
    def has_work(self) -> bool:
        """True while anything may still write."""
        return bool(self._fetches)

    def begin(
        self,
        number: int,
        peer: int,
        start: int,
        blocks: Sequence[int],
        now: float,
        *,
        num_remote_blocks: int,
        patience: float = 0.0,
    ) -> None:
        """Arrival `number` is to be filled by `peer` from number `start` of the prompt's blocks on.

        `patience`: seconds beyond the stall time that the peer may take to compute something.
        """
        self._fetches[number] = Fetch(
            number=number,
            peer=peer,
            start=start,
            blocks=list(blocks),
            num_remote_blocks=num_remote_blocks,
            patience=patience,
            began=now,
            progress_at=now,
        )

    def leases(self) -> dict[int, list[tuple[int, int]]]:
        """The leases that are still needed as (row, epoch), by peer."""
        needed: dict[int, list[tuple[int, int]]] = {}
        for fetch in self._fetches.values():
            if fetch.is_open and fetch.lease is not None:
                needed.setdefault(fetch.peer, []).append((fetch.lease.lease, fetch.lease.epoch))
        return needed

    @property
    def shortest_lease(self) -> float | None:
        """Seconds that the most impatient of those leases lives without being renewed; None without leases."""
        leases = [fetch.lease.seconds for fetch in self._fetches.values() if fetch.is_open and fetch.lease is not None]
        return min(leases, default=None)

    def announced(self, number: int, announcement: Announcement, now: float) -> list[Action]:
        """A peer said something about a fetch; of one that is over it is ignored."""
        if number not in self:
            return []
        fetch = self._fetches[number]
        fetch.progress_at = now
        try:
            match announcement:
                case Granted():
                    self._grant(fetch, announcement)
                    return []
                case Computed():
                    return [self._pull(fetch, announcement)]
                case Ended():
                    return self._ended(fetch, announcement)
        except BadAnnouncement as error:
            return self._end(fetch, f"the peer announced {error}")

    def pulled(self, pull: int, why: str, now: float, *, is_over: bool = True) -> list[Action]:
        """A READ ended, or (not `is_over`) failed but may still write; one that is not known is ignored."""
        if (pulling := self._pulls.get(pull)) is None:
            return []
        fetch = self._fetches[pulling.number]
        if is_over:
            del self._pulls[pull]
            fetch.pulls.discard(pull)
        if not fetch.is_open:
            return self._close(fetch)
        if why or not is_over:
            return self._end(fetch, why or "a pull ended before it was over")
        fetch.progress_at = now
        fetch.add_good(pulling.start, len(pulling.local))
        return self._end(fetch) if fetch.num_good == len(fetch.blocks) else []

    def call_lost(self, number: int, why: str, *, is_death: bool = False) -> list[Action]:
        """The call ended without a last word, or was refused."""
        return self._end(self._fetches[number], why, is_death=is_death) if number in self else []

    def peer_lost(self, peer: int, why: str, *, is_death: bool = False) -> list[Action]:
        """Nothing more will come from that peer."""
        lost = [fetch for fetch in self._fetches.values() if fetch.is_open and fetch.peer == peer]
        return [action for fetch in lost for action in self._end(fetch, why, is_death=is_death, is_peer_lost=True)]

    def cancel(self, number: int) -> list[Action]:
        """Nobody wants it any more; what came stays useful."""
        return self._end(self._fetches[number]) if number in self else []

    def tick(self, now: float) -> list[Action]:
        """Give up on what makes no progress."""
        actions: list[Action] = []
        for fetch in [fetch for fetch in self._fetches.values() if fetch.is_open]:
            limit = self._stall if fetch.pulls else self._stall + fetch.patience
            if now - fetch.progress_at > limit:
                actions += self._end(fetch, f"no progress in {limit:.1f} s")
        return actions

    def _grant(self, fetch: Fetch, granted: Granted) -> None:
        if fetch.lease is not None:
            raise BadAnnouncement("a second lease")
        if not (0 <= granted.lease < NUM_LEASES and 0 < granted.epoch < 1 << 64):
            raise BadAnnouncement("a lease that cannot be")
        fetch.lease = granted

    def _pull(self, fetch: Fetch, computed: Computed) -> StartPull:
        fetch.check(computed)
        assert fetch.lease is not None, f"fetch {fetch.number} pulls without a lease"
        start = len(fetch.remote)
        local = fetch.blocks[start : start + len(computed.blocks)]
        self._num_pulls += 1
        self._pulls[self._num_pulls] = Pulling(number=fetch.number, start=start, local=local)
        fetch.pulls.add(self._num_pulls)
        fetch.remote.update(computed.blocks)
        return StartPull(
            pull=self._num_pulls,
            peer=fetch.peer,
            remote=list(computed.blocks),
            local=local,
            checksums=list(computed.checksums),
            lease=fetch.lease.lease,
            epoch=fetch.lease.epoch,
        )

    def _ended(self, fetch: Fetch, ended: Ended) -> list[Action]:
        if ended.why or ended.is_death:
            return self._end(fetch, f"the peer gave up: {ended.why}", is_death=ended.is_death)
        if len(fetch.remote) < len(fetch.blocks):
            raise BadAnnouncement(f"an end after {len(fetch.remote)} of {len(fetch.blocks)} blocks")
        return []

    def _end(self, fetch: Fetch, why: str = "", *, is_death: bool = False, is_peer_lost: bool = False) -> list[Action]:
        fetch.is_open = False
        busy = [block for pull in sorted(fetch.pulls) for block in self._pulls[pull].local]
        actions: list[Action] = [
            EndArrival(
                number=fetch.number,
                num_good=fetch.num_good,
                busy=busy,
                peer=fetch.peer,
                why=why,
                is_whole=fetch.num_good == len(fetch.blocks),
                is_death=is_death,
                began=fetch.began,
            )
        ]
        if fetch.lease is not None and not is_peer_lost:
            actions.append(GiveLeaseBack(peer=fetch.peer, lease=fetch.lease.lease, epoch=fetch.lease.epoch))
        actions.append(HangUp(number=fetch.number))
        return actions + self._close(fetch)

    def _close(self, fetch: Fetch) -> list[Action]:
        """Forget a fetch that ended once nothing writes to its blocks; say so, unless nothing was busy at its end."""
        if fetch.pulls:
            return []
        del self._fetches[fetch.number]
        return [CloseArrival(number=fetch.number)]
