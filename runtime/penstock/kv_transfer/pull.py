"""One pull: READ the blocks, compare checksums, then READ the lease's word. It counts only if all three are right."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.jobs import Job
from penstock.kv_transfer.messages import Pull, Pulled
from penstock.kv_transfer.mover import NixlMover, Peer
from penstock.kv_transfer.nixl import NixlError, Read

SLICE_BYTES = 8 << 20  # READ in one call, which copies by itself where memory is shared: about a millisecond
MAX_READS = 4  # slices on their way at once, so that a network never waits for us


class PullJob:
    """The state of one pull; `run` is the job."""

    def __init__(self, mover: NixlMover, order: Pull, stall_seconds: float, clock: Callable[[], float]) -> None:
        self._mover, self._order = mover, order
        self._stall_seconds, self._clock = stall_seconds, clock
        self._checksums = dict(order.checksums)  # position -> CRC-32
        self._begun_at = self._moved_at = clock()
        self._why = ""
        self._is_given_up = False  # the engine core was told, before the READ was over

    def run(self) -> Job:
        """Answers once, or twice if a READ does not end in time."""
        try:
            peer = self._mover.begin(self._order)
        except NixlError as error:
            self._why = str(error)
        else:
            yield from self._read_blocks(peer)
            yield from self._read_word(peer)
        num_bytes = 0 if self._why else len(self._order.local) * self._mover.block_bytes
        yield Pulled(pull=self._order.pull, why=self._why, num_bytes=num_bytes, seconds=self._clock() - self._begun_at)

    def _read_blocks(self, peer: Peer) -> Job:
        order, width = self._order, max(1, SLICE_BYTES // self._mover.block_bytes)
        starts = deque(range(0, len(order.local), width))
        reads: deque[tuple[Read, range]] = deque()
        while reads or (starts and not self._why):
            is_moving = False
            if starts and not self._why and len(reads) < MAX_READS:
                part = range(starts[0], min(starts.popleft() + width, len(order.local)))
                local, remote = order.local[part.start : part.stop], order.remote[part.start : part.stop]
                try:
                    reads.append((self._mover.read_blocks(peer, local, remote), part))
                except NixlError as error:
                    self._why = str(error)
            while reads and reads[0][0].poll():
                read, part = reads.popleft()
                self._note(peer, read)
                self._compare(part)  # at once: what was just copied is in the processor's cache
                is_moving = True
            yield from self._progress(peer, is_moving)

    def _read_word(self, peer: Peer) -> Job:
        """Only now, when every READ of blocks is over."""
        if self._why:
            return
        while (word := self._mover.take_word()) is None:
            yield False
        try:
            read = self._mover.read_word(peer, word, self._order.lease)
        except NixlError as error:
            self._why = str(error)
            self._mover.free_word(word)
            return
        while not read.poll():
            yield from self._progress(peer, False)
        self._note(peer, read)
        if self._mover.free_word(word) != self._order.epoch:
            self._why = self._why or "the lease had ended before the READ had"

    def _compare(self, part: range) -> None:
        """Check the blocks of the sample among these positions."""
        for position in [position for position in part if position in self._checksums]:
            block = int(self._order.local[position])
            if not self._why and checksum_of(self._mover.block(block)) != self._checksums[position]:
                self._why = f"the checksum of block {int(self._order.remote[position])} is wrong"

    def _note(self, peer: Peer, read: Read) -> None:
        """Take note of how a READ ended."""
        if read.why:
            self._why = self._why or read.why
            peer.is_broken = True

    def _progress(self, peer: Peer, is_moving: bool) -> Job:
        """Say how it goes; give up after too long without any progress, or when the peer is left."""
        now = self._clock()
        self._moved_at = now if is_moving else self._moved_at
        if now - self._moved_at > self._stall_seconds:
            self._why = self._why or f"no progress for {self._stall_seconds:g} seconds"
        elif peer.is_left:
            self._why = self._why or "the peer was left"
        if self._why and not is_moving and not self._is_given_up:
            self._is_given_up = True
            yield Pulled(pull=self._order.pull, why=self._why, is_over=False)
        yield is_moving
