"""What a peer is told of blocks that are computed and held for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.internal.protocol import Announcement, Ended
from penstock.kv_transfer.front_end_messages import LendNews


class LendStream:
    """An asynchronous iterator over announcements; it ends when the lease is over, which may be long after `Ended`.

    Whoever stops earlier calls `aclose`, which gives the lease up.
    """

    def __init__(self, handle: int, abort: Callable[[int], None]) -> None:
        self.is_working = True  # more blocks are to come
        self._handle, self._abort = handle, abort
        self._pending: list[Announcement] = []
        self._is_over = False
        self._news = asyncio.Event()

    def __aiter__(self) -> LendStream:
        return self

    async def __anext__(self) -> list[Announcement]:
        """The next announcements, in order; waits for at least one."""
        while not self._pending:
            if self._is_over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        pending, self._pending = self._pending, []
        return pending

    async def aclose(self) -> None:
        """Give the lease up if it is not over, and end the iteration. Idempotent."""
        if not self._is_over:
            self._abort(self._handle)
            self.end()

    def push(self, announcement: Announcement) -> None:
        """Add one for the iterator."""
        self.is_working = self.is_working and not isinstance(announcement, Ended)
        self._pending.append(announcement)
        self._news.set()

    def end(self) -> None:
        """The lease is over; nothing follows."""
        self.is_working, self._is_over = False, True
        self._news.set()

    def fail(self, why: str, *, is_death: bool = False) -> None:
        """No more blocks will come and the lease is given up."""
        self._abort(self._handle)
        if self.is_working:
            self.push(Ended(why=why, is_death=is_death))
        self.end()


class Lends:
    """All streams of a front-end whose leases are not over; `abort` tells the engine of those that are given up."""

    def __init__(self, abort: Callable[[int], None]) -> None:
        self._streams: dict[int, LendStream] = {}  # by handle
        self._abort = abort

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, handle: int) -> bool:
        return handle in self._streams

    @property
    def has_work(self) -> bool:
        """True while blocks are computed for any of them."""
        return any(stream.is_working for stream in self._streams.values())

    def begin(self, handle: int) -> LendStream:
        """A new stream for the request with that handle."""
        self._streams[handle] = LendStream(handle, self._give_up)
        return self._streams[handle]

    def take(self, message: LendNews) -> None:
        """What the engine says; of leases that were given up meanwhile it counts for nothing."""
        stream = self._streams.get(message.handle)
        if stream is not None and message.news is not None:
            stream.push(message.news)
        elif stream is not None:
            del self._streams[message.handle]
            stream.end()

    def fail(self, handle: int, why: str) -> None:
        """End one; unknown handles are ignored."""
        if stream := self._streams.get(handle):
            stream.fail(why)

    def fail_all(self, why: str, *, is_death: bool = False) -> None:
        """End all of them."""
        for stream in list(self._streams.values()):
            stream.fail(why, is_death=is_death)

    def _give_up(self, handle: int) -> None:
        if self._streams.pop(handle, None) is not None:
            self._abort(handle)
