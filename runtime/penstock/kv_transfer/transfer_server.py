"""Answers the engine core's messages about KV that moves outside the steps.

Work is cut into jobs that take turns, about a millisecond at a time, in calls that let go of the interpreter, so that
steps hardly notice. It sleeps in `select` while nothing moves.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable
from functools import partial

import msgspec

from penstock.core.kv.block_hash import HASH_BYTES
from penstock.core.plan import Ints
from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.jobs import Job
from penstock.kv_transfer.kv_blocks import KvBlocks
from penstock.kv_transfer.messages import (
    Checksum,
    Checksums,
    Fetch,
    Fetched,
    Leave,
    Meet,
    Met,
    Pull,
    Pulled,
    ReturnLease,
    Store,
    Stored,
    TransferInput,
    TransferOutput,
)
from penstock.kv_transfer.mover import NixlMover
from penstock.kv_transfer.offload import OffloadTier
from penstock.kv_transfer.pull import PullJob
from penstock.logs import event
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel

READING_SECONDS = 0.0002  # between looks at READs on their way
LENDING_SECONDS = 0.0005  # between looks at what peers want while leases are out: over TCP it is we who serve a READ
IDLE_SECONDS = 0.05  # the same without: connections that begin, notifications that are late
NO_MOVER = "this pod moves no KV: its role is both"

_log = logging.getLogger(__name__)


class TransferServer:
    """One worker's; all in one thread."""

    def __init__(
        self,
        channel: Channel,
        blocks: KvBlocks,
        *,
        mover: NixlMover | None,
        tier: OffloadTier | None,
        stall_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.num_dropped = 0  # messages that were none
        self._channel, self._blocks, self._mover, self._tier = channel, blocks, mover, tier
        self._stall_seconds, self._clock = stall_seconds, clock
        self._decoder = decoder(TransferInput)
        self._jobs: list[Job] = []

    def serve(self) -> None:
        """Until the other side closes the channel, which raises `EOFError`; `NixlError` if NIXL cannot go on."""
        while True:
            pause = self._advance()
            messages = self._channel.receive_ready()
            for data in messages:
                self._take(data)
            if not messages and pause != 0:
                select.select([self._channel], [], [], pause)

    def close(self) -> None:
        """Cut off the peers, and let the tier finish."""
        if self._mover is not None:
            self._mover.close()
        if self._tier is not None:
            self._tier.close()

    def _advance(self) -> float | None:
        """Let every job do a little; returns how long there will be nothing to do (None: until a message comes)."""
        is_moving = False
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            progress = next(job, None)
            if progress is None:
                continue
            if isinstance(progress, bool):
                is_moving |= progress
            else:
                self._say(progress)
                is_moving = True
            self._jobs.append(job)
        if self._mover is not None:
            for news in self._mover.poll():
                self._say(news)
        if self._tier is not None and self._tier.has_unwritten and not is_moving:
            self._tier.write_one()
            is_moving = True
        return 0.0 if is_moving else self._pause()

    def _pause(self) -> float | None:
        if self._jobs or (self._mover is not None and self._mover.has_reads):
            return READING_SECONDS
        if self._mover is None:
            return None
        return LENDING_SECONDS if self._mover.is_lending else IDLE_SECONDS

    def _take(self, data: bytes) -> None:
        try:
            message: TransferInput = self._decoder.decode(data)
            self._begin(message)
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            self.num_dropped += 1
            event(_log, "message.dropped", level=logging.WARNING, bytes=len(data), why=str(error))

    def _begin(self, message: TransferInput) -> None:
        """Answer, or begin the job that will. Raises `ValueError` for a message that makes no sense."""
        mover = self._mover
        match message:
            case Meet():
                self._say(Met(peer=message.peer, why=mover.meet(message.peer, message.endpoint) if mover else NO_MOVER))
            case Pull() if mover is not None:
                self._jobs.append(PullJob(mover, message, self._stall_seconds, self._clock).run())
            case Pull():
                self._say(Pulled(pull=message.pull, why=NO_MOVER))
            case Leave() if mover is not None:
                mover.leave(message.peer)
            case ReturnLease() if mover is not None:
                mover.return_lease(message.peer, message.lease, message.epoch)
            case Checksum():
                self._jobs.append(self._checksum(message, self._check(message.blocks)))
            case Store():
                self._jobs.append(self._store(message, self._check(message.blocks, message.hashes)))
            case Fetch():
                self._jobs.append(self._fetch(message, self._check(message.blocks, message.hashes)))

    def _checksum(self, message: Checksum, blocks: list[int]) -> Job:
        values = []
        for block in blocks:
            values.append(checksum_of(self._blocks.read(block)))
            yield True
        yield Checksums(call=message.call, values=values)

    def _store(self, message: Store, blocks: list[int]) -> Job:
        tier = self._tier
        if tier is None:
            yield Stored(call=message.call, stored=[], dropped=[])
            return
        for block, name in zip(blocks, message.hashes, strict=True):
            tier.store(name, self._blocks.read(block))
            yield True
        stored = [name for name in message.hashes if name in tier]
        yield Stored(call=message.call, stored=stored, dropped=tier.take_dropped())

    def _fetch(self, message: Fetch, blocks: list[int]) -> Job:
        begin, num_good = self._clock(), 0
        for block, name in zip(blocks, message.hashes, strict=True):
            if self._tier is None or not self._blocks.write(block, partial(self._tier.fetch, name)):
                break
            num_good += 1
            yield True
        num_bytes = num_good * self._blocks.block_bytes
        yield Fetched(call=message.call, num_good=num_good, num_bytes=num_bytes, seconds=self._clock() - begin)

    def _check(self, blocks: Ints, hashes: list[bytes] | None = None) -> list[int]:
        """The block ids; raises `ValueError` for any that are none, and for hashes that do not fit them."""
        if hashes is not None and (len(hashes) != blocks.size or any(len(each) != HASH_BYTES for each in hashes)):
            raise ValueError(f"{len(hashes)} hashes do not fit {blocks.size} blocks")
        found: list[int] = blocks.tolist()
        if any(not isinstance(block, int) or not 0 <= block < self._blocks.num_blocks for block in found):
            raise ValueError("there is no such block")
        return found

    def _say(self, message: TransferOutput) -> None:
        self._channel.send(encode(message))
