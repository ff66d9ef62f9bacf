"""Two pods of a simulated service: real schedulers, lender and puller over a device that can be watched.

Nothing here decides when something happens: the world calls `schedule`, `work`, `take…` in an order of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from random import Random

from penstock.config import SchedulerConfig
from penstock.core.applied import Applied
from penstock.core.plan import StepResult
from penstock.core.request import RequestKey
from penstock.core.trace import TraceHead, build_scheduler
from penstock.internal.protocol import Announcement, Computed
from penstock.kv_transfer.lender import Lender, News
from penstock.kv_transfer.puller import (
    Action,
    CloseArrival,
    EndArrival,
    GiveLeaseBack,
    HangUp,
    Puller,
    StartPull,
)
from simulation.device import BLOCK_SIZE, Device
from simulation.prompts import Told, named

LEASE_SECONDS = 10.0
STALL_SECONDS = 5.0
NUM_LEASES = 4
MAX_MODEL_LEN = 48
NUM_ROWS = 4


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
    """A scheduler and its device, a few steps apart."""

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
        self.is_stopped = False  # by SIGSTOP
        self.is_dead = False
        self.is_stuck = False  # the last `schedule` gave nothing although there was work
        self.results: deque[StepResult] = deque()

    @property
    def can_schedule(self) -> bool:
        scheduler = self.scheduler
        return self.num_in_flight < self.depth and bool(scheduler.running.size or len(scheduler.waiting))

    def schedule(self) -> None:
        plan = self.scheduler.schedule()
        self.is_stuck = plan is None and not self.num_in_flight
        if plan is not None:
            self.device.submit(plan)
            self.num_in_flight += 1

    def work(self, random: Random) -> None:
        if (result := self.device.work(random)) is not None:
            self.results.append(result)

    def apply(self) -> Applied:
        self.num_in_flight -= 1
        return self.scheduler.apply(self.results.popleft())


@dataclass(slots=True)
class Call:
    """An open `POST /internal/v1/prefill`; announcements travel in order."""

    number: int
    target: PrefillPod
    made: Told  # the request for it …
    skip: int  # … of which the caller has that many blocks
    sent: deque[Announcement] = field(default_factory=deque)
    is_ended_there: bool = False  # no more is sent
    is_delayed: bool = False  # nothing arrives just now

    @property
    def key(self) -> RequestKey:
        """Of its request at the prefill pod."""
        return RequestKey(0, self.number)


class PrefillPod(Pod):
    """Computes prompts and lends their blocks."""

    def __init__(self, life: int, random: Random, checksum_share: float, *shape: int) -> None:
        super().__init__(*shape)
        self._random, self._checksum_share = random, checksum_share
        self.life = life
        self.words = LeaseWords(random)
        self.lender = Lender(self.words, self.scheduler.tickets, LEASE_SECONDS)
        self.calls: dict[RequestKey, Call] = {}

    def take(self, call: Call, now: float) -> None:
        """A call arrived."""
        self.calls[call.key] = call
        self.lender.begin(call.key, call.made.hashes, call.skip)
        self.scheduler.add(named(call.made.request, call.number, now))
        self.tell(self.lender.advance(now))

    def take_result(self, now: float) -> None:
        """One step is done."""
        applied = self.apply()
        news = self.lender.advance(now)
        pairs = zip(applied.clients.tolist(), applied.handles.tolist(), applied.finish.tolist(), strict=True)
        news += self.lender.finished([RequestKey(client, handle) for client, handle, finish in pairs if finish])
        self.tell(news)

    def hang_up(self, key: RequestKey) -> None:
        """The caller closed the call."""
        self.calls.pop(key, None)
        self.lender.closed([key])
        self.scheduler.abort([key])

    def tell(self, news: list[News]) -> None:
        for key, announcement in news:
            if (call := self.calls.get(key)) is None:
                continue
            if announcement is None:
                call.is_ended_there = True
                del self.calls[key]
                self.scheduler.abort([key])
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

    def __init__(self, num_blocks: int, budget: int, depth: int) -> None:
        super().__init__(num_blocks, budget, depth)
        self.puller = Puller(STALL_SECONDS)
        self.sources: dict[int, PrefillPod] = {}  # by the number of a peer
        self.calls: dict[int, Call] = {}
        self.starts: dict[int, Call] = {}
        self.reads: dict[int, Read] = {}
        self.returns: list[GiveLeaseBack] = []  # notifications that are not sent yet
        self.hang_ups: list[Call] = []
        self.inbox: deque[EndArrival | CloseArrival] = deque()
        self.num_whole = self.num_failed = 0
        self.keeps_busy_blocks = True

    def begin_fetch(self, number: int, source: PrefillPod, made: Told, now: float) -> Call | None:
        """A call for what is missing of a prompt, with destination blocks at hand; None if nothing is to be called."""
        spare = self.scheduler.num_reserved
        if (got := self.scheduler.tickets.begin_arrival(number, made.hashes, spare=spare)) is None:
            return None
        start, blocks = got
        self.sources[source.life] = source
        self.puller.begin(number, source.life, start, blocks, now, num_remote_blocks=source.pool.num_blocks)
        self.calls[number] = self.starts[number] = Call(number, source, made, start)
        return self.calls[number]

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
                case EndArrival() | CloseArrival():
                    self.inbox.append(action)

    def take_inbox(self) -> None:
        """The step loop hears what the puller, on another thread, has said of arrivals."""
        while self.inbox:
            action = self.inbox.popleft()
            if isinstance(action, CloseArrival):
                self.scheduler.tickets.close_arrival(action.number)
            else:
                busy = action.busy if self.keeps_busy_blocks else []
                self.scheduler.tickets.end_arrival(action.number, action.num_good, busy)
                self.num_whole += action.is_whole
                self.num_failed += bool(action.why)

    def _wanted(self, pull: StartPull) -> list[list[int]]:
        """What the blocks of a pull must hold once it is good."""
        arrivals = [each for each in self.scheduler.tickets._arrivals.values() if each.is_open]
        names = {block: name for each in arrivals for block, name in zip(each.blocks, each.hashes, strict=True)}
        contents = {name: content for call in self.starts.values() for name, content in call.made.contents.items()}
        return [contents[names[block]] for block in pull.local]
