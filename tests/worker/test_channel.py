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


def test_one_thread_sends_while_another_receives(ends: tuple[Channel, Channel]):
    """Large messages both ways at once, so that senders meet full buffers while receivers hold the reading end."""
    ours, theirs = [bytes([number]) * (number << 16) for number in range(1, 40)], [b"x" * 300_000, b"y", b""] * 15
    heard: dict[int, list[bytes]] = {}

    def receive(side: int, count: int) -> None:
        heard[side] = [ends[side].receive() for _ in range(count)]

    def send(side: int, messages: list[bytes]) -> None:
        for message in messages:
            ends[side].send(message)

    threads = [
        threading.Thread(target=work, args=arguments, daemon=True)
        for work, arguments in (
            (send, (0, ours)),
            (send, (1, theirs)),
            (receive, (0, len(theirs))),
            (receive, (1, len(ours))),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert heard == {0: theirs, 1: ours}


def test_quiet_means_that_nothing_waits_to_be_received(ends: tuple[Channel, Channel]):
    assert ends[1].is_quiet()
    ends[0].send(b"a")
    ends[0].send(b"b")
    assert not ends[1].is_quiet()
    assert ends[1].receive() == b"a"
    assert not ends[1].is_quiet(), "the second was read with the first"
    assert ends[1].receive() == b"b"
    assert ends[1].is_quiet()


def test_hanging_up_wakes_a_thread_that_waits(ends: tuple[Channel, Channel]):
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(EOFError):
            ends[0].receive()
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    ends[0].hang_up()
    assert ended.wait(10)
    with pytest.raises(EOFError):
        ends[1].receive()
    ends[0].hang_up()  # twice does no harm
