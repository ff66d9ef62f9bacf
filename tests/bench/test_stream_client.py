"""The cheap client against a server that cuts its events anywhere."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from penstock.bench.stream_client import Door, Stream, poisson, stream_all


class Site:
    """A server in a thread of its own; `answer(writer)` is all it does."""

    def __init__(self, answer):
        self._loop, self._answer, self.port = asyncio.new_event_loop(), answer, 0
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    async def _serve(self) -> None:
        self._is_over = asyncio.Event()

        async def handle(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await self._answer(writer)
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._is_up.set()
            await self._is_over.wait()

    def __enter__(self):
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *error):
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()
        self._loop.close()

    @property
    def door(self) -> Door:
        return Door(host="127.0.0.1", port=self.port, request=b"POST / HTTP/1.1\r\n\r\n")


def event() -> bytes:
    return b'data: {"text": "@%d@"}\n\n' % time.monotonic_ns()


async def in_small_pieces(writer):
    for byte in event() + event() + b"data: [DONE]\n\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)


async def without_an_end(writer):
    writer.write(event())


async def in_one_piece(writer):
    writer.write(event() + event() + b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("answer", "is_whole"), [(in_small_pieces, True), (in_one_piece, True), (without_an_end, False)]
)
def test_counts_events_however_they_are_cut_and_notes_their_ages(answer, is_whole):
    with Site(answer) as site:
        streams = stream_all([site.door], [0.0, 0.01])
    assert [stream.is_whole(2) for stream in streams] == [is_whole] * 2
    assert all(0 <= age < 2 for stream in streams for age in stream.ages)
    assert all(stream.due <= stream.first <= stream.last for stream in streams)


def test_events_that_are_missing_or_out_of_order_make_a_stream_not_whole():
    assert Stream(due=0.0, stamps=[1, 2, 3], has_end=True).is_whole(3)
    assert not Stream(due=0.0, stamps=[1, 3, 2], has_end=True).is_whole(3)
    assert not Stream(due=0.0, stamps=[1, 2], has_end=True).is_whole(3)


def test_a_closed_port_is_a_stream_without_events():
    [stream] = stream_all([Door(host="127.0.0.1", port=9, request=b"")], [0.0])
    assert (stream.stamps, stream.first) == ([], 0.0)


def test_arrivals_have_the_rate_that_was_asked_for():
    arrivals = poisson(50.0, 100.0, seed=1)
    assert len(arrivals) == pytest.approx(5000, rel=0.05)
    assert arrivals == sorted(arrivals)
    assert np.diff(arrivals).std() == pytest.approx(1 / 50, rel=0.1)
