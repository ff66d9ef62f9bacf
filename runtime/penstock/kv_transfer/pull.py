"""One pull: READ the blocks, compare checksums, then READ the lease's word. It counts only if all three are right."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.jobs import Job
from penstock.kv_transfer.messages import Pull, Pulled
from penstock.kv_transfer.mover import NixlMover, Peer
from penstock.kv_transfer.nixl import NixlError, Read

SLICE_BYTES = 8 << 20  # READ in one call: at 2 MB/s still something every four seconds …
MAX_SLICE_BYTES = 64 << 20  # … and where memory is shared, so that the call does the copying, about six milliseconds
MAX_READS = 4  # slices on their way from one peer at once: a network never waits for us, and pulls end in order


class PullJob:
    """The state of one pull; `run` is the job."""

    def __init__(self, mover: NixlMover, order: Pull, stall_seconds: float, clock: Callable[[], float]) -> None:
        self._mover, self._order = mover, order
        self._stall_seconds, self._clock = stall_seconds, clock
        self._checksums = dict(order.checksums)  # position -> CRC-32
        self._begun_at = clock()
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
        order, start, width = self._order, 0, SLICE_BYTES
        reads: deque[tuple[Read, range]] = deque()
        while reads or (start < len(order.local) and not self._why):
            is_moving = False
            if start < len(order.local) and not self._why and len(peer.unfinished) < MAX_READS:
                part = range(start, min(start + max(1, width // self._mover.block_bytes), len(order.local)))
                local, remote = order.local[start : part.stop], order.remote[start : part.stop]
                try:
                    read = self._mover.read_blocks(peer, local, remote)
                except NixlError as error:
                    self._why = str(error)
                else:
                    reads.append((read, part))
                    start, is_moving = part.stop, True
                    width = min(2 * width, MAX_SLICE_BYTES) if read.is_over else SLICE_BYTES
            while reads and reads[0][0].poll():
                read, part = reads.popleft()
                self._note(peer, read)
                self._compare(part)
                is_moving = True
            yield from self._progress(peer, is_moving, is_reading=bool(reads))

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
            yield from self._progress(peer, False, is_reading=True)
        self._note(peer, read)
        if self._mover.free_word(word) != self._order.epoch:
            self._why = self._why or "the lease had ended before the READ had"

    def _compare(self, part: range) -> None:
        """Check the blocks of the sample among these positions."""
        for position in part if self._checksums and not self._why else ():
            if position in self._checksums:
                block = self._mover.block(int(self._order.local[position]))
                if checksum_of(block) != self._checksums[position]:
                    self._why = f"the checksum of block {int(self._order.remote[position])} is wrong"
                    return

    def _note(self, peer: Peer, read: Read) -> None:
        """Take note of how a READ ended."""
        if read.why:
            self._why = self._why or read.why
            peer.is_broken = True

    def _progress(self, peer: Peer, is_moving: bool, *, is_reading: bool) -> Job:
        """Say how it goes; give up after too long without any progress, or when the peer is left."""
        now = self._clock()
        if is_moving:
            peer.moved_at = now
        if now - max(peer.moved_at, self._begun_at) > self._stall_seconds:
            self._why = self._why or f"no progress for {self._stall_seconds:g} seconds"
        elif peer.is_left:
            self._why = self._why or "the peer was left"
        if self._why and is_reading and not is_moving and not self._is_given_up:
            self._is_given_up = True
            yield Pulled(pull=self._order.pull, why=self._why, is_over=False)
        yield is_moving
