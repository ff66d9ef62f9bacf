"""The message channel between engine core and worker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from penstock.worker.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pair = socket.socketpair()
    left, right = Channel(pair[0]), Channel(pair[1])
    yield left, right
    left.close()
    right.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]):
    messages = [b"", b"a", b"b" * 70_000, b"c" * 3, bytes(1000) * 100]
    for message in messages:
        ends[0].send(message)
    assert [ends[1].receive() for _ in messages] == messages


def test_both_sides_may_send_more_than_the_buffers_hold(ends: tuple[Channel, Channel]):
    large = bytes(20 << 20)
    received: list[bytes] = []

    def other() -> None:
        ends[1].send(large)
        received.append(ends[1].receive())

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    ends[0].send(large)
    assert ends[0].receive() == large
    thread.join(timeout=10)
    assert received == [large]


def test_what_a_send_had_to_read_is_ready_afterwards(ends: tuple[Channel, Channel]):
    large = bytes(20 << 20)
    assert ends[0].receive_ready() == []
    thread = threading.Thread(target=lambda: [ends[1].send(b"early"), ends[1].receive()], daemon=True)
    thread.start()
    ends[0].send(large)
    thread.join(timeout=10)
    assert ends[0].receive_ready() == [b"early"]
    assert ends[0].receive_ready() == []
    assert ends[1].receive_ready() == []


def test_a_closed_side_is_an_end_of_file(ends: tuple[Channel, Channel]):
    ends[0].send(b"last words")
    ends[0].close()
    assert ends[1].receive() == b"last words"
    with pytest.raises(EOFError):
        ends[1].receive()
    with pytest.raises(EOFError):
        ends[1].receive_ready()
    with pytest.raises(EOFError):
        ends[1].send(bytes(1 << 20))
