"""Two pods of a simulated service: real schedulers, connectors, lender and puller over a device that can be watched.

Nothing here decides when something happens: the world calls `schedule`, `work`, `take…` in an order of its own.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from random import Random

from penstock.config import SchedulerConfig
from penstock.core.applied import Applied
from penstock.core.plan import StepResult
from penstock.core.request import Request, RequestKey
from penstock.core.trace import TraceHead, build_scheduler
from penstock.engine.core import ended_of
from penstock.internal.protocol import Announcement, Computed
from penstock.kv_transfer.decider import Decider
from penstock.kv_transfer.fetching import Fetching, Kind
from penstock.kv_transfer.lender import Lender, News
from penstock.kv_transfer.peer import PeerView
from penstock.kv_transfer.puller import (
    Action,
    CloseArrival,
    EndArrival,
    GiveLeaseBack,
    HangUp,
    Puller,
    StartPull,
)
from penstock.kv_transfer.switchboard import Happened, Order
from penstock.kv_transfer.transfers import Transfers
from simulation.device import BLOCK_SIZE, Device
from simulation.link import Link
from simulation.prompts import Told, named

LEASE_SECONDS = 10.0
STALL_SECONDS = 5.0
NUM_LEASES = 4
MAX_MODEL_LEN = 48
NUM_ROWS = 4
PEER_NAME = "prefill:1"

Clock = Callable[[], float]


class LeaseWords:
    """The lease table in simulated memory: a peer may read it at any moment."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.epochs = [0] * NUM_LEASES
        self.renewed = [0.0] * NUM_LEASES

    def grant(self, now: float) -> tuple[int, int] | None:
        if 0 not in self.epochs:
            return None
        row = self.epochs.index(0)
        self.epochs[row], self.renewed[row] = self._random.getrandbits(62) + 1, now
        return row, self.epochs[row]

    def renew(self, row: int, epoch: int, now: float) -> None:
        if self.epochs[row] == epoch:
            self.renewed[row] = now

    def renewed_at(self, row: int) -> float:
        return self.renewed[row]

    def end(self, row: int) -> None:
        self.epochs[row] = 0


class Pod:
    """A scheduler and its device, a few steps apart; as `EngineCore` joins them, but each part at its own time."""

    transfers: Transfers
    link: Link

    def __init__(self, num_blocks: int, budget: int, depth: int) -> None:
        head = TraceHead(
            scheduler=SchedulerConfig(max_num_seqs=NUM_ROWS, max_num_batched_tokens=budget),
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_model_len=MAX_MODEL_LEN,
            has_prefix_cache=True,
        )
        self.scheduler = build_scheduler(head)
        self.pool = self.scheduler.kv.pool
        self.device = Device(num_blocks)
        self.depth = depth
        self.num_in_flight = 0
        self.num_barren = 0  # attempts to plan a step, in a row, that gave none
        self.is_stopped = False  # by SIGSTOP
        self.is_dead = False
        self.results: deque[StepResult] = deque()

    @property
    def can_schedule(self) -> bool:
        scheduler = self.scheduler
        return self.num_in_flight < self.depth and bool(scheduler.running.size or len(scheduler.waiting))

    def add(self, request: Request, output_ids: bytes = b"", lend_from: int | None = None) -> None:
        self.transfers.match(request, output_ids, lend_from)
        self.scheduler.add(request, output_ids)
        self.num_barren = 0

    def abort(self, key: RequestKey) -> None:
        self.scheduler.abort([key])
        self.transfers.finished([key])
        self.num_barren = 0

    def schedule(self) -> None:
        self.transfers.plan(is_stuck=self.num_barren > 1)
        plan = self.scheduler.schedule()
        if plan is not None:
            self.device.submit(plan)
            self.num_in_flight += 1
        self.num_barren = 0 if self.num_in_flight else self.num_barren + 1

    def wake(self) -> None:
        """The step loop looks at what its connector has for it, without a step."""
        self.transfers.plan(is_stuck=False)

    def work(self, random: Random) -> None:
        if (result := self.device.work(random)) is not None:
            self.results.append(result)

    def apply(self) -> Applied:
        self.num_in_flight -= 1
        applied = self.scheduler.apply(self.results.popleft())
        self.transfers.computed(ended_of(applied))
        return applied


@dataclass(slots=True)
class Call:
    """An open `POST /internal/v1/prefill`; announcements travel in order."""

    number: int  # of the arrival
    handle: int  # of its request at the prefill pod
    target: PrefillPod
    made: Told  # the request for it …
    skip: int  # … of which the caller has that many blocks
    sent: deque[Announcement] = field(default_factory=deque)
    is_ended_there: bool = False  # no more is sent
    is_delayed: bool = False  # nothing arrives just now

    @property
    def key(self) -> RequestKey:
        """Of its request at the prefill pod."""
        return RequestKey(0, self.handle)


class PrefillPod(Pod):
    """Computes prompts and lends their blocks."""

    def __init__(self, life: int, random: Random, clock: Clock, checksum_share: float, *shape: int) -> None:
        super().__init__(*shape)
        self._random, self._checksum_share = random, checksum_share
        self.life = life
        self.words = LeaseWords(random)
        self.lender = Lender(self.words, self.scheduler.tickets, LEASE_SECONDS)
        self.link = Link(self.tell)
        self.transfers = Transfers(self.scheduler, self.link, clock, lender=self.lender)
        self.calls: dict[RequestKey, Call] = {}

    @property
    def view(self) -> PeerView:
        """What a decode pod knows of it."""
        return PeerView(
            peer=self.life,
            names=frozenset([PEER_NAME]),
            num_queued=0,
            rate=100.0,
            bytes_per_second=0.0,
            max_tokens=(self.pool.num_blocks - 1) * BLOCK_SIZE - 1,
        )

    def take(self, call: Call, now: float) -> None:
        """A call arrived."""
        self.calls[call.key] = call
        self.add(named(call.made.request, call.handle, now), lend_from=call.skip)

    def hang_up(self, key: RequestKey) -> None:
        """The caller closed the call."""
        self.calls.pop(key, None)
        self.abort(key)

    def tell(self, news: Sequence[News]) -> None:
        """The front-ends hear what the callers are to be told."""
        for key, announcement in news:
            if (call := self.calls.get(key)) is None:
                continue
            if announcement is None:
                call.is_ended_there = True
                del self.calls[key]
            else:
                call.sent.append(self._with_checksums(announcement))

    def _with_checksums(self, announcement: Announcement) -> Announcement:
        if not isinstance(announcement, Computed):
            return announcement
        sample = [at for at in range(len(announcement.blocks)) if self._random.random() < self._checksum_share]
        checksums = [(at, checksum(self.device.memory[announcement.blocks[at]])) for at in sample]
        return Computed(start=announcement.start, blocks=announcement.blocks, checksums=checksums)


def checksum(content: list[int]) -> int:
    return hash(tuple(content))


@dataclass(slots=True)
class Read:
    """A one-sided READ: it goes on whatever the processes do, block part by block part."""

    pull: StartPull
    source: PrefillPod
    contents: list[list[int]]  # what its blocks should hold
    done: int = 0  # parts, of 2 tokens
    is_given_up: bool = False  # the mover said that it failed, though it may still write
    is_damaged: bool = False
    is_delayed: bool = False  # the link carries nothing just now

    @property
    def num_parts(self) -> int:
        return len(self.pull.local) * 2


class DecodePod(Pod):
    """Owns requests; fetches blocks."""

    def __init__(self, clock: Clock, *shape: int) -> None:
        super().__init__(*shape)
        self._clock = clock
        self.puller = Puller(STALL_SECONDS)
        self.link = Link()
        kind = Kind(block_size=BLOCK_SIZE, block_bytes=64, fingerprint="f", revision="")
        decider = Decider(1, 1000.0)
        fetching = Fetching(self.scheduler, decider, kind, link=self.link, rate=lambda: 100.0)
        self.transfers = Transfers(self.scheduler, self.link, clock, fetching=fetching)
        self.sources: dict[int, PrefillPod] = {}  # by the number of a peer
        self.calls: dict[int, Call] = {}
        self.made: dict[int, Told] = {}  # what each fetch asked for
        self.reads: dict[int, Read] = {}
        self.returns: list[GiveLeaseBack] = []  # notifications that are not sent yet
        self.hang_ups: list[Call] = []
        self.keeps_busy_blocks = True

    def know(self, peer: PrefillPod) -> None:
        """Its handshake with a prefill pod is done."""
        self.sources[peer.life] = peer
        self.link.views = (peer.view,)

    def begin(self, order: Order, made: Told, handle: int) -> Call:
        """The connector's thread calls the peer."""
        source = self.sources[order.peer]
        self.puller.begin(
            order.number,
            order.peer,
            order.call.skip,
            order.blocks,
            self._clock(),
            num_remote_blocks=source.pool.num_blocks,
            patience=order.predicted,
        )
        self.made[order.number] = made
        self.calls[order.number] = Call(order.number, handle, source, made, order.call.skip)
        return self.calls[order.number]

    def abandon(self, order: Order) -> None:
        """There is nobody to call."""
        end = EndArrival(number=order.number, num_good=0, busy=[], peer=order.peer, why="no peer")
        self.act([end, CloseArrival(number=order.number)])

    def act(self, actions: Collection[Action]) -> None:
        """Do what the puller wants done."""
        for action in actions:
            match action:
                case StartPull():
                    self.reads[action.pull] = Read(action, self.sources[action.peer], self._wanted(action))
                case GiveLeaseBack():
                    self.returns.append(action)
                case HangUp(number=number):
                    if number in self.calls:
                        self.hang_ups.append(self.calls.pop(number))
                case EndArrival() if not self.keeps_busy_blocks:
                    self._post(dataclasses.replace(action, busy=[]))
                case EndArrival() | CloseArrival():
                    self._post(action)

    def _post(self, what: EndArrival | CloseArrival) -> None:
        """The step loop, on another thread, hears of it when it looks."""
        self.link.inbox.append(Happened(at=self._clock(), what=what))

    def _wanted(self, pull: StartPull) -> list[list[int]]:
        """What the blocks of a pull must hold once it is good."""
        arrivals = [each for each in self.scheduler.tickets._arrivals.values() if each.is_open]
        names = {block: name for each in arrivals for block, name in zip(each.blocks, each.hashes, strict=True)}
        contents = {name: content for made in self.made.values() for name, content in made.contents.items()}
        return [contents[names[block]] for block in pull.local]
