"""A recording of everything that a scheduler was told, from which its every decision can be made again, bit for bit.

A file of length-prefixed msgpack messages: a `TraceHead`, then events in order. Measured times are in the results.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import msgspec

from penstock.config import SchedulerConfig
from penstock.core.applied import Applied
from penstock.core.kv.block_pool import BlockPool
from penstock.core.kv.groups import GroupKind, KVGroup
from penstock.core.kv.kv_cache import KVCache
from penstock.core.kv.tickets import Tickets
from penstock.core.plan import StepPlan, StepResult
from penstock.core.request import Request, RequestKey
from penstock.core.request_table import RequestTable
from penstock.core.scheduler import Scheduler
from penstock.errors import PenstockError
from penstock.wire import decoder, encode

LENGTH = struct.Struct("<I")


class TraceHead(msgspec.Struct, frozen=True, kw_only=True, tag="head"):
    """What a scheduler is built from."""

    scheduler: SchedulerConfig
    num_blocks: int
    block_size: int
    max_model_len: int
    has_prefix_cache: bool


class Added(msgspec.Struct, frozen=True, tag="add"):
    """`Scheduler.add`."""

    request: Request
    output_ids: bytes


class Aborted(msgspec.Struct, frozen=True, tag="abort"):
    """`Scheduler.abort`; also what `abort_client` comes down to."""

    keys: list[tuple[int, int]]


class Scheduled(msgspec.Struct, frozen=True, tag="schedule"):
    """`Scheduler.schedule` and a digest of its plan; empty if there was none."""

    digest: bytes


class ResultIn(msgspec.Struct, frozen=True, tag="apply"):
    """`Scheduler.apply`."""

    result: StepResult


class ArrivalBegun(msgspec.Struct, frozen=True, tag="arrival-begun"):
    """`Tickets.begin_arrival`."""

    number: int
    hashes: list[bytes]
    spare: int


class ArrivalEnded(msgspec.Struct, frozen=True, tag="arrival-ended"):
    """`Tickets.end_arrival`."""

    number: int
    num_good: int
    busy: list[int]


class ArrivalClosed(msgspec.Struct, frozen=True, tag="arrival-closed"):
    """`Tickets.close_arrival`."""

    number: int


class Lent(msgspec.Struct, frozen=True, tag="lent"):
    """`Tickets.lend`."""

    hashes: list[bytes]


class LentReturned(msgspec.Struct, frozen=True, tag="lent-returned"):
    """`Tickets.return_lent`."""

    blocks: list[int]


TicketEvent = ArrivalBegun | ArrivalEnded | ArrivalClosed | Lent | LentReturned
Event = TraceHead | Added | Aborted | Scheduled | ResultIn | TicketEvent


class TraceMismatch(PenstockError):
    """A replay decided otherwise than the recording, or the file is no trace."""


def build_scheduler(head: TraceHead) -> Scheduler:
    """A scheduler with nothing in it yet."""
    kv, table = build_memory(head)
    return Scheduler(head.scheduler, kv, table, tickets=Tickets(kv.pool), has_prefix_cache=head.has_prefix_cache)


def build_memory(head: TraceHead) -> tuple[KVCache, RequestTable]:
    """The block accounting and the request table that a scheduler works on."""
    group = KVGroup(kind=GroupKind.FULL, block_size=head.block_size)
    max_num_seqs = head.scheduler.max_num_seqs
    kv = KVCache(BlockPool(head.num_blocks), group, max_num_seqs, head.max_model_len)
    return kv, RequestTable(max_num_seqs, head.max_model_len)


class RecordingTickets(Tickets):
    """Tickets that write down what they are told."""

    def __init__(self, pool: BlockPool, write: Callable[[Event], None]) -> None:
        super().__init__(pool)
        self._write = write

    def begin_arrival(self, number: int, hashes: Sequence[bytes], *, spare: int) -> tuple[int, list[int]] | None:
        """Record, then do."""
        self._write(ArrivalBegun(number, list(hashes), spare))
        return super().begin_arrival(number, hashes, spare=spare)

    def end_arrival(self, number: int, num_good: int, busy: Collection[int] = ()) -> None:
        """Record, then do."""
        self._write(ArrivalEnded(number, num_good, list(busy)))
        super().end_arrival(number, num_good, busy)

    def close_arrival(self, number: int) -> None:
        """Record, then do."""
        self._write(ArrivalClosed(number))
        super().close_arrival(number)

    def lend(self, hashes: Sequence[bytes]) -> list[int]:
        """Record, then do."""
        self._write(Lent(list(hashes)))
        return super().lend(hashes)

    def return_lent(self, blocks: Sequence[int]) -> None:
        """Record, then do."""
        self._write(LentReturned(list(blocks)))
        super().return_lent(blocks)


class RecordingScheduler(Scheduler):
    """A scheduler that writes down what it is told and a digest of each plan."""

    def __init__(self, head: TraceHead, file: BinaryIO) -> None:
        self._file = file
        kv, table = build_memory(head)
        tickets = RecordingTickets(kv.pool, self._write)
        super().__init__(head.scheduler, kv, table, tickets=tickets, has_prefix_cache=head.has_prefix_cache)
        self._write(head)

    def add(self, request: Request, output_ids: bytes = b"") -> None:
        """Record, then do."""
        self._write(Added(request, output_ids))
        super().add(request, output_ids)

    def abort(self, keys: Collection[RequestKey]) -> None:
        """Record, then do."""
        self._write(Aborted([(key.client, key.handle) for key in keys]))
        super().abort(keys)

    def schedule(self) -> StepPlan | None:
        """Do, then record what was decided."""
        plan = super().schedule()
        self._write(Scheduled(digest_of(plan)))
        return plan

    def apply(self, result: StepResult) -> Applied:
        """Record, then do."""
        self._write(ResultIn(result))
        self._file.flush()
        return super().apply(result)

    def _write(self, event: Event) -> None:
        data = encode(event)
        self._file.write(LENGTH.pack(len(data)))
        self._file.write(data)


def digest_of(plan: StepPlan | None) -> bytes:
    """16 bytes that name a plan, or none for no plan."""
    return b"" if plan is None else blake2b(encode(plan), digest_size=16).digest()


def read_trace(path: Path) -> Iterator[Event]:
    """Events in order; a file cut short by a crash ends at its last whole event. Raises `TraceMismatch` for junk."""
    events = decoder(Event)
    with path.open("rb") as file:
        while len(prefix := file.read(LENGTH.size)) == LENGTH.size:
            data = file.read(LENGTH.unpack(prefix)[0])
            if len(data) < LENGTH.unpack(prefix)[0]:
                return
            try:
                yield events.decode(data)
            except msgspec.DecodeError as error:
                raise TraceMismatch(f"{path} is not a scheduler trace: {error}") from error


def replay(path: Path) -> int:
    """Make every decision of a recording again; returns how many plans were equal.

    Raises `TraceMismatch` at the first plan that differs.
    """
    scheduler: Scheduler | None = None
    num_plans = 0
    for event in read_trace(path):
        if isinstance(event, TraceHead):
            scheduler = build_scheduler(event)
            continue
        if scheduler is None:
            raise TraceMismatch(f"{path} does not begin with a trace head")
        match event:
            case Added(request=request, output_ids=output_ids):
                scheduler.add(request, output_ids)
            case Aborted(keys=keys):
                scheduler.abort([RequestKey(*key) for key in keys])
            case ResultIn(result=result):
                scheduler.apply(result)
            case ArrivalBegun() | ArrivalEnded() | ArrivalClosed() | Lent() | LentReturned():
                replay_tickets(scheduler.tickets, event)
            case Scheduled(digest=digest):
                if digest_of(scheduler.schedule()) != digest:
                    raise TraceMismatch(f"{path}: plan {num_plans + 1} differs from the recording")
                num_plans += bool(digest)
    return num_plans


def replay_tickets(tickets: Tickets, event: TicketEvent) -> None:
    """Tell it again."""
    match event:
        case ArrivalBegun(number=number, hashes=hashes, spare=spare):
            tickets.begin_arrival(number, hashes, spare=spare)
        case ArrivalEnded(number=number, num_good=num_good, busy=busy):
            tickets.end_arrival(number, num_good, busy)
        case ArrivalClosed(number=number):
            tickets.close_arrival(number)
        case Lent(hashes=hashes):
            tickets.lend(hashes)
        case LentReturned(blocks=blocks):
            tickets.return_lent(blocks)
