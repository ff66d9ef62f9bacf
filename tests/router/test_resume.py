"""What the router keeps of an answer, with scripted frames."""

from __future__ import annotations

import pytest

from penstock.errors import EngineFailure
from penstock.internal.frames import BrokenFrame, Frame, FrameKind
from penstock.internal.protocol import RoutedCall
from penstock.router.resume import Journal

TOLD = RoutedCall(path="/v1/completions", body=b"{}", request_id="r", prefiller="10.0.0.1:1")


def event(number: int) -> Frame:
    return Frame(FrameKind.EVENT, b"record %d" % number, b"payload %d;" % number)


def test_the_next_pod_is_told_exactly_what_the_client_has_seen():
    journal = Journal(TOLD)
    assert journal.next_call() is TOLD
    assert journal.take([event(0), Frame(FrameKind.HEARTBEAT), event(1)]) == (b"payload 0;payload 1;", None)
    told = journal.next_call()
    assert told.records == [b"record 0", b"record 1"]
    assert (told.body, told.num_deaths) == (TOLD.body, 0)
    journal.take([event(2)])
    assert len(told.records) == 2
    assert len(journal.next_call().records) == 3


def test_an_end_comes_back_with_what_came_before_it():
    journal = Journal(TOLD)
    end = Frame(FrameKind.END, b"", b"[DONE]")
    assert journal.take([event(0), end]) == (b"payload 0;", end)


def test_nothing_may_follow_an_end():
    with pytest.raises(BrokenFrame):
        Journal(TOLD).take([Frame(FrameKind.END), event(0)])


def test_a_death_counts_and_a_move_does_not():
    journal = Journal(TOLD)
    journal.next_call()
    moved = Frame(FrameKind.MOVED)
    assert journal.take([event(0), moved]) == (b"payload 0;", moved)
    assert journal.next_call().prefiller == TOLD.prefiller
    journal.take([Frame(FrameKind.DEATH)])
    told = journal.next_call()
    assert (told.num_deaths, told.prefiller) == (1, "")
    with pytest.raises(EngineFailure, match="2 engines died"):
        journal.count_death()
