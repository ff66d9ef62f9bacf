from __future__ import annotations

import pytest

from penstock.core.kv.block_pool import BlockPool
from penstock.core.kv.tickets import Tickets
from penstock.core.request import RequestKey
from penstock.internal.protocol import Computed, Ended, Granted
from penstock.kv_transfer.lease_table import NUM_LEASES, LeaseTable
from penstock.kv_transfer.lender import Lender

KEY, OTHER = RequestKey(0, 1), RequestKey(0, 2)
SECONDS = 10.0


class Pod:
    """A lender over a real pool and a real lease table."""

    def __init__(self, folder, num_blocks: int = 16) -> None:
        self.pool = BlockPool(num_blocks)
        self.table = LeaseTable(folder / "leases", is_new=True)
        self.lender = Lender(self.table, Tickets(self.pool), SECONDS)

    def compute(self, *names: bytes) -> list[int]:
        """As a request does that computes these blocks and ends."""
        blocks = self.pool.allocate(len(names))
        for block, name in zip(blocks, names, strict=True):
            self.pool.remember(block, name)
        self.pool.release(blocks)
        return blocks

    def free(self) -> int:
        assert self.pool.check_integrity() is None
        return self.pool.num_free


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def say(news):
    return [each.announcement for each in news]


def test_blocks_are_announced_as_they_become_findable_and_each_once(pod):
    pod.lender.begin(KEY, [b"a", b"b", b"c"], skip=0)
    assert pod.lender.advance(0.0) == []
    a, b = pod.compute(b"a", b"b")
    granted, computed = say(pod.lender.advance(1.0))
    assert pod.table.is_good(granted.lease, granted.epoch)
    assert granted.seconds == SECONDS
    assert computed == Computed(start=0, blocks=[a, b], checksums=[])
    assert pod.lender.advance(1.0) == []
    [c] = pod.compute(b"c")
    assert say(pod.lender.advance(2.0)) == [Computed(start=2, blocks=[c], checksums=[]), Ended()]
    assert pod.lender.advance(3.0) == []


def test_what_is_cached_already_is_announced_at_once_and_what_the_peer_has_is_left_out(pod):
    _, b, c = pod.compute(b"a", b"b", b"c")
    pod.lender.begin(KEY, [b"a", b"b", b"c"], skip=1)
    granted, computed, ended = say(pod.lender.advance(0.0))
    assert isinstance(granted, Granted)
    assert (computed.start, computed.blocks, ended) == (1, [b, c], Ended())


def test_lent_blocks_stay_until_the_peer_returns_the_lease(pod):
    names = [bytes([n]) for n in range(8)]
    pod.compute(*names)
    pod.lender.begin(KEY, names, skip=0)
    granted = pod.lender.advance(0.0)[0].announcement
    assert pod.free() == 7
    assert pod.lender.returned(granted.lease, granted.epoch + 1) == []
    assert pod.free() == 7, "somebody else's epoch gave the blocks back"
    assert pod.lender.returned(granted.lease, granted.epoch) == [(KEY, None)]
    assert pod.free() == 15
    assert not pod.table.is_good(granted.lease, granted.epoch)
    assert KEY not in pod.lender


def test_the_word_of_a_lease_ends_before_its_blocks_can_be_reused(pod):
    order = []
    tickets, table = Tickets(pod.pool), pod.table

    class Watched:
        def __getattr__(self, name):
            return getattr(table, name)

        def end(self, row):
            order.append(("end", pod.pool.num_free))
            table.end(row)

    lender = Lender(Watched(), tickets, SECONDS)
    pod.compute(b"a", b"b")
    for end in (
        lambda g: lender.returned(g.lease, g.epoch),
        lambda g: lender.closed([KEY]),
        lambda g: lender.expire(99),
    ):
        lender.begin(KEY, [b"a", b"b"], skip=0)
        end(lender.advance(0.0)[0].announcement)
        assert order.pop() == ("end", 13)
        assert pod.free() == 15


def test_a_lease_that_is_renewed_lives_and_one_that_is_not_expires(pod):
    pod.compute(b"a", b"b")
    pod.lender.begin(KEY, [b"a", b"x"], skip=0)
    pod.lender.begin(OTHER, [b"b"], skip=0)
    news = pod.lender.advance(0.0)
    granted = {each.key: each.announcement for each in news if isinstance(each.announcement, Granted)}
    assert pod.lender.expire(SECONDS) == []
    pod.table.renew(granted[OTHER].lease, granted[OTHER].epoch, SECONDS)
    assert pod.lender.expire(SECONDS + 0.1) == [(KEY, Ended(why="the lease was not renewed")), (KEY, None)]
    assert OTHER in pod.lender
    assert pod.lender.expire(2 * SECONDS + 0.1) == [(OTHER, None)], "a complete call is not told again that it ended"
    assert pod.free() == 15


def test_a_request_that_ends_with_blocks_missing_ends_its_lease(pod):
    pod.compute(b"a")
    pod.lender.begin(KEY, [b"a", b"b"], skip=0)
    pod.lender.advance(0.0)
    assert say(pod.lender.finished([KEY])) == [Ended(why="not all was computed"), None]
    assert pod.free() == 15


def test_a_request_that_ends_complete_keeps_its_lease(pod):
    pod.compute(b"a")
    pod.lender.begin(KEY, [b"a"], skip=0)
    pod.lender.advance(0.0)
    assert pod.lender.finished([KEY]) == []
    assert pod.lender.num_leases == 1


def test_a_full_lease_table_refuses_and_holds_nothing(pod):
    for _ in range(NUM_LEASES):
        pod.table.grant(0.0)
    pod.compute(b"a")
    pod.lender.begin(KEY, [b"a"], skip=0)
    assert say(pod.lender.advance(0.0)) == [Ended(why="too many leases"), None]
    assert pod.free() == 15


def test_calls_of_a_dead_front_end_are_closed(pod):
    pod.compute(b"a", b"b")
    pod.lender.begin(RequestKey(3, 1), [b"a"], skip=0)
    pod.lender.begin(RequestKey(4, 1), [b"b"], skip=0)
    pod.lender.advance(0.0)
    pod.lender.closed_client(3)
    assert (pod.lender.num_leases, pod.free()) == (1, 14)


def test_the_newest_unfinished_call_gives_way_when_nothing_can_go_on(pod):
    pod.compute(b"a", b"b", b"c")
    pod.lender.begin(KEY, [b"a", b"x"], skip=0)
    pod.lender.begin(OTHER, [b"b", b"y"], skip=0)
    pod.lender.advance(0.0)
    assert pod.lender.give_way() == [(OTHER, Ended(why="out of blocks")), (OTHER, None)]
    pod.lender.begin(OTHER, [b"c"], skip=0)
    pod.lender.advance(0.0)
    assert pod.lender.give_way() == [], "blocks of a complete call come back by themselves"
