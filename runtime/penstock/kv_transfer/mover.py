"""Who moves KV blocks from peers into this worker's memory, and lets peers READ it.

A READ cannot be taken back: NIXL's `remove_remote_agent` flushes what is under way, so a peer that was stopped in the
middle still fills our blocks when it goes on. Therefore a READ is over when NIXL says so and never because nobody wants
it any more. A peer that was left is cut off when its last READ ended; if one does not end for `CUT_SECONDS`, the whole
agent is replaced, which closes its sockets, and peers are met anew at their next pull.
"""

from __future__ import annotations

import logging
import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.kv_blocks import Bytes, KvBlocks, Place
from penstock.kv_transfer.lease_table import FREE, NUM_LEASES, ROW, LeaseTable
from penstock.kv_transfer.messages import LeaseReturned, Pull
from penstock.kv_transfer.nixl import LOCAL, NixlAgent, NixlError, Read
from penstock.logs import event

WORD_BYTES = 8
NUM_WORDS = 1024  # lease words that can be on their way at once
MEND_SECONDS = 1.0  # between attempts to meet a peer again whose connection failed
CUT_SECONDS = 60.0  # how long a READ from a peer that was left may take to end
RETURNED = struct.Struct("<8sQQ")  # a notification: mark, lease, epoch
MARK = b"penstock"

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Peer:
    """A pod whose blocks can be READ."""

    endpoint: KvEndpoint
    blocks: Any  # NIXL's list of its blocks
    words: Any  # NIXL's list of its lease words
    reads: list[Read] = field(default_factory=list)  # begun; `unfinished` are not over
    is_broken: bool = False  # a READ failed: to be met again before the next …
    mended_at: float = -math.inf  # … but not all the time
    moved_at: float = -math.inf  # when a READ of any pull made progress
    left_at: float | None = None

    @property
    def is_left(self) -> bool:
        """True if nobody wants it any more."""
        return self.left_at is not None

    @property
    def unfinished(self) -> list[Read]:
        """READs that may still write."""
        self.reads = [read for read in self.reads if not read.is_over]
        return self.reads

    def unfinished_after_poll(self) -> list[Read]:
        """The same, asked of NIXL now."""
        self.reads = [read for read in self.reads if not read.poll()]
        return self.reads


class NixlMover:
    """Owns the agent of one worker. All calls from one thread; no call lets out anything but `NixlError`."""

    def __init__(
        self,
        agent: NixlAgent,  # a new one; the mover closes it
        blocks: KvBlocks,
        leases: LeaseTable | None,  # None: peers never READ from here
        *,
        session: str,
        fingerprint: str,
        clock: Callable[[], float],
    ) -> None:
        """Raises `NixlError`."""
        self.num_dropped = 0  # notifications that were none of ours
        self._blocks, self._leases = blocks, leases
        self._session, self._fingerprint, self._clock = session, fingerprint, clock
        self._words: NDArray[np.uint64] = np.zeros(NUM_WORDS, dtype=np.uint64)  # where lease words are READ to
        self._free_words = deque(range(NUM_WORDS))
        self._peers: dict[int, Peer] = {}
        self._left: list[Peer] = []
        self._register(agent)

    def _register(self, agent: NixlAgent) -> None:
        self._agent, blocks = agent, self._blocks
        width, count = blocks.block_bytes, blocks.num_blocks
        self._agent.register(blocks.address, count * width, blocks.place)
        self._agent.register(self._words.ctypes.data, self._words.nbytes)
        if self._leases is not None:
            self._agent.register(self._leases.address, self._leases.rows.nbytes)
        list_ours = self._agent.list_parts
        self._our_blocks = list_ours(LOCAL, blocks.address, width, count=count, stride=width, place=blocks.place)
        self._our_words = list_ours(LOCAL, self._words.ctypes.data, WORD_BYTES, count=NUM_WORDS, stride=WORD_BYTES)

    @property
    def block_bytes(self) -> int:
        """Of one block."""
        return self._blocks.block_bytes

    @property
    def has_reads(self) -> bool:
        """True while a READ is not over."""
        return any(peer.unfinished for peer in (*self._peers.values(), *self._left))

    @property
    def is_lending(self) -> bool:
        """True while a peer may READ from here: `poll` moves what it wants."""
        return self._leases is not None and self._leases.num_held > 0

    def describe(self) -> KvEndpoint | None:
        """What a peer must know to READ from here."""
        if self._leases is None:
            return None
        return KvEndpoint(
            fingerprint=self._fingerprint,
            session=self._session,
            agent=self._agent.name,
            metadata=self._agent.metadata(),
            base=self._blocks.address,
            block_bytes=self.block_bytes,
            num_blocks=self._blocks.num_blocks,
            lease_base=self._leases.address,
            num_leases=NUM_LEASES,
            kind=self._blocks.place.kind,
            device=self._blocks.place.device,
        )

    def meet(self, number: int, endpoint: KvEndpoint) -> str:
        """Get to know a peer, anew if it is known; returns why not, or nothing."""
        self.leave(number)
        if endpoint.fingerprint != self._fingerprint:
            return f"its KV has the fingerprint {endpoint.fingerprint[:16]}, ours {self._fingerprint[:16]}"
        if endpoint.block_bytes != self.block_bytes:
            return f"its blocks have {endpoint.block_bytes:,} bytes, ours {self.block_bytes:,}"
        if any(peer.endpoint.agent == endpoint.agent for peer in (*self._peers.values(), *self._left)):
            return f"its NIXL agent {endpoint.agent} is a peer's already"
        try:
            self._peers[number] = self._add(endpoint)
        except NixlError as error:
            return str(error)
        event(_log, "peer.met", peer=number, agent=endpoint.agent, blocks=endpoint.num_blocks)
        return ""

    def leave(self, number: int) -> None:
        """Begin nothing more with this peer, and cut it off once its READs are over."""
        if peer := self._peers.pop(number, None):
            peer.left_at = self._clock()
            self._left.append(peer)
            self._cut_left()
            event(_log, "peer.left", peer=number, agent=peer.endpoint.agent, reads=len(peer.unfinished))

    def begin(self, order: Pull) -> Peer:
        """The peer that this pull can begin to READ from. Raises `NixlError`."""
        peer = self._peers.get(order.peer)
        if peer is None:
            raise NixlError("the peer is not known")
        if len(order.local) != len(order.remote):
            raise NixlError(f"{len(order.remote)} blocks there do not fit {len(order.local)} blocks here")
        if not _are_ids(order.local, self._blocks.num_blocks) or not _are_ids(order.remote, peer.endpoint.num_blocks):
            raise NixlError("a block of the pull does not exist")
        if not 0 <= order.lease < peer.endpoint.num_leases:
            raise NixlError("there is no such lease there")
        if any(not 0 <= position < len(order.local) for position, _ in order.checksums):
            raise NixlError("a checksum is of no block of the pull")
        if peer.is_broken:
            self._mend(peer)
        return peer

    def read_blocks(self, peer: Peer, local: NDArray[np.int32], remote: NDArray[np.int32]) -> Read:
        """Begin to READ blocks. Raises `NixlError`, also for a peer that was left."""
        self._check(peer)
        return self._note(peer, self._agent.read(self._our_blocks, local, peer.blocks, remote))

    def take_word(self) -> int | None:
        """A place for a lease word, to be given back by `free_word`; None if all are in use."""
        if not self._free_words:
            return None
        word = self._free_words.popleft()
        self._words[word] = FREE
        return word

    def read_word(self, peer: Peer, word: int, lease: int) -> Read:
        """Begin to READ the word of a lease. Raises `NixlError`, also for a peer that was left."""
        self._check(peer)
        here, there = np.array([word], dtype=np.int32), np.array([lease], dtype=np.int32)
        return self._note(peer, self._agent.read(self._our_words, here, peer.words, there))

    def free_word(self, word: int) -> int:
        """The word, whose place is free again; its READ must be over."""
        self._free_words.append(word)
        return int(self._words[word])

    def block(self, number: int) -> Bytes:
        """See `KvBlocks.read`."""
        return self._blocks.read(number)

    def return_lease(self, number: int, lease: int, epoch: int) -> None:
        """Tell the peer that its lease is not needed any more; if that does not reach it, the lease expires."""
        if (peer := self._peers.get(number)) and not peer.is_broken:
            try:
                self._agent.notify(peer.endpoint.agent, RETURNED.pack(MARK, lease, epoch))
            except NixlError as error:
                peer.is_broken = True
                event(_log, "peer.broken", level=logging.WARNING, agent=peer.endpoint.agent, why=str(error))

    def poll(self) -> list[LeaseReturned]:
        """Serve peers, cut off those that were left, and return what they said. Raises `NixlError` if NIXL fails."""
        self._cut_left()
        found = []
        for message in self._agent.poll():
            if len(message) == RETURNED.size and message.startswith(MARK):
                _, lease, epoch = RETURNED.unpack(message)
                found.append(LeaseReturned(lease=lease, epoch=epoch))
            else:
                self.num_dropped += 1
        return found

    def close(self) -> None:
        """Cut everything off."""
        self._agent.close()

    def _add(self, endpoint: KvEndpoint) -> Peer:
        name = self._agent.add(endpoint.metadata)
        try:
            if name != endpoint.agent:
                raise NixlError(f"its metadata is of the agent {name}, not {endpoint.agent}")
            width, count, place = endpoint.block_bytes, endpoint.num_blocks, Place(endpoint.kind, endpoint.device)
            blocks = self._agent.list_parts(name, endpoint.base, width, count=count, stride=width, place=place)
            count, stride = endpoint.num_leases, ROW.itemsize
            words = self._agent.list_parts(name, endpoint.lease_base, WORD_BYTES, count=count, stride=stride)
        except NixlError:
            self._agent.remove(name)
            raise
        return Peer(endpoint=endpoint, blocks=blocks, words=words)

    def _check(self, peer: Peer) -> None:
        if peer.is_left:
            raise NixlError("the peer was left")
        if peer.is_broken:
            raise NixlError("the connection to the peer failed")

    def _note(self, peer: Peer, read: Read) -> Read:
        if not read.is_over:
            peer.reads = [*peer.unfinished, read]
        elif read.why:
            peer.is_broken = True
        return read

    def _mend(self, peer: Peer) -> None:
        """Meet a peer again whose connection failed."""
        if self._clock() - peer.mended_at < MEND_SECONDS:
            raise NixlError("the connection to the peer failed")
        if peer.unfinished_after_poll():
            raise NixlError("the connection to the peer failed and READs from it are not over")
        peer.mended_at = self._clock()
        self._agent.remove(peer.endpoint.agent, peer.blocks, peer.words)
        again = self._add(peer.endpoint)
        peer.blocks, peer.words, peer.is_broken = again.blocks, again.words, False

    def _cut_left(self) -> None:
        if not self._left:
            return
        now, still = self._clock(), []
        for peer in self._left:
            if not peer.unfinished_after_poll():
                self._agent.remove(peer.endpoint.agent, peer.blocks, peer.words)
            else:
                still.append(peer)
        self._left = still
        if any(now - (peer.left_at or now) > CUT_SECONDS for peer in still):
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Replace the agent, so that READs which do not end cannot write any more."""
        event(_log, "agent.replaced", level=logging.WARNING, peers=[peer.endpoint.agent for peer in self._left])
        self._our_blocks = self._our_words = None
        for peer in (*self._peers.values(), *self._left):
            peer.blocks = peer.words = None
            peer.is_broken = True
        self._left = []
        self._agent.close()
        self._register(self._agent.successor())


def _are_ids(column: NDArray[np.int32], count: int) -> bool:
    """True for at least one number, all of 0 to `count` - 1."""
    is_column = column.dtype == np.int32 and column.ndim == 1 and column.size > 0
    return is_column and column.min() >= 0 and column.max() < count
