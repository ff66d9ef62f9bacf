"""A client that costs little: it counts events in the raw bytes of many answers, and notes how old each one is.

An event is `data: ` with a text `@<nanoseconds>@` in it, the moment at which a scripted pod on this machine sent it
(CLOCK_MONOTONIC, which all processes share). The bytes around it, frames or server-sent events, do not matter.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

STAMP = re.compile(rb"@(\d+)@")
END = b"[DONE]"
LONGEST_STAMP = 24  # bytes, with its marks
TIMEOUT = 120.0  # seconds that streams get after the last one was due


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where streams are asked for: an address, and the bytes of the whole HTTP request."""

    host: str
    port: int
    request: bytes


@dataclass(slots=True, kw_only=True)
class Stream:
    """One answer as its client saw it; times in seconds."""

    due: float  # monotonic
    first: float = 0.0  # monotonic, of its first event; 0: none came
    last: float = 0.0
    ages: list[float] = field(default_factory=list)  # of each event when it arrived
    stamps: list[int] = field(default_factory=list)
    has_end: bool = False

    def is_whole(self, num_events: int) -> bool:
        """Every event came, in order, and the end behind them."""
        return self.has_end and len(self.stamps) == num_events and self.stamps == sorted(self.stamps)


class StreamReader(asyncio.Protocol):
    """Sends the request when connected and reads until the end."""

    def __init__(self, door: Door, stream: Stream, is_over: asyncio.Future[None]) -> None:
        self._door, self._stream, self._is_over = door, stream, is_over
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._door.request)

    def data_received(self, data: bytes) -> None:
        """Note each event in it; one that is cut in two waits for its other half."""
        now, stream = time.monotonic_ns(), self._stream
        data = self._rest + data
        end = 0
        for match in STAMP.finditer(data):
            stamp = int(match[1])
            stream.stamps.append(stamp)
            stream.ages.append((now - stamp) / 1e9)
            end = match.end()
        if end:
            stream.last = now / 1e9
            stream.first = stream.first or stream.last
        if END in data[end:]:
            stream.has_end = True
            self._close()
        self._rest = data[max(end, len(data) - LONGEST_STAMP) :]

    def connection_lost(self, error: Exception | None) -> None:
        """The other side has closed."""
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if not self._is_over.done():
            self._is_over.set_result(None)


def stream_all(doors: Sequence[Door], arrivals: Sequence[float]) -> list[Stream]:
    """One stream for each arrival (seconds from now, in order), at the doors in turn; returns when all are over."""
    gc.collect()
    gc.disable()  # a pause of ours would look like one of theirs
    try:
        return asyncio.run(_stream_all(doors, arrivals))
    finally:
        gc.enable()


async def _stream_all(doors: Sequence[Door], arrivals: Sequence[float]) -> list[Stream]:
    began = time.monotonic()
    streams = [Stream(due=began + moment) for moment in arrivals]
    tasks = []
    for index, stream in enumerate(streams):
        if (wait := stream.due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_stream_one(doors[index % len(doors)], stream)))
    if tasks:
        await asyncio.wait(tasks, timeout=TIMEOUT)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return streams


async def _stream_one(door: Door, stream: Stream) -> None:
    loop = asyncio.get_running_loop()
    is_over = loop.create_future()
    try:
        await loop.create_connection(lambda: StreamReader(door, stream, is_over), door.host, door.port)
    except OSError:
        return
    await is_over


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 2) + 64)
    times = np.cumsum(gaps)
    return [float(moment) for moment in times[times < seconds]]
