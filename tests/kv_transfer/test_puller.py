from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.internal.protocol import Computed, Ended, Granted
from penstock.kv_transfer.puller import CloseArrival, EndArrival, GiveLeaseBack, HangUp, Puller, StartPull

PEER, LEASE = 7, Granted(lease=3, epoch=99, seconds=10.0)
STALL = 5.0


def build_puller(blocks=(11, 12, 13, 14), start=2, number=1, **options) -> Puller:
    puller = Puller(STALL)
    puller.begin(number, PEER, start, list(blocks), 0.0, num_remote_blocks=100, **options)
    return puller


def computed(start, *blocks, checksums=()):
    return Computed(start=start, blocks=list(blocks), checksums=list(checksums))


def end_of(actions) -> EndArrival | None:
    return next((action for action in actions if isinstance(action, EndArrival)), None)


def pull_of(actions) -> StartPull:
    [action] = actions
    assert isinstance(action, StartPull)
    return action


def test_blocks_are_pulled_as_they_are_announced_and_the_arrival_ends_when_all_are_good():
    puller = build_puller()
    assert puller.announced(1, LEASE, 0.1) == []
    first = pull_of(puller.announced(1, computed(2, 50, 51, checksums=[(1, 123)]), 0.2))
    assert (first.peer, first.remote, first.local, first.checksums) == (PEER, [50, 51], [11, 12], [(1, 123)])
    assert (first.lease, first.epoch) == (3, 99)
    second = pull_of(puller.announced(1, computed(4, 60, 61), 0.3))
    assert second.local == [13, 14]
    assert puller.announced(1, Ended(), 0.3) == []
    assert puller.pulled(second.pull, "", 0.4) == []
    end, *rest = puller.pulled(first.pull, "", 0.5)
    assert (end.num_good, end.busy, end.why, end.is_whole) == (4, [], "", True)
    assert rest == [GiveLeaseBack(peer=PEER, lease=3, epoch=99), HangUp(number=1), CloseArrival(number=1)]
    assert not puller.has_work


def test_only_the_blocks_before_the_first_bad_one_count():
    puller = build_puller()
    puller.announced(1, LEASE, 0.0)
    pulls = [pull_of(puller.announced(1, computed(2 + n, 50 + n), 0.0)).pull for n in range(4)]
    for good in (0, 1, 3):
        assert puller.pulled(pulls[good], "", 0.1) == []
    end = end_of(puller.pulled(pulls[2], "a checksum differs", 0.1))
    assert (end.num_good, end.busy, end.why, end.is_whole) == (2, [], "a checksum differs", False)


def test_blocks_of_an_unfinished_read_are_busy_until_it_is_over():
    puller = build_puller()
    puller.announced(1, LEASE, 0.0)
    one = pull_of(puller.announced(1, computed(2, 50), 0.0))
    two = pull_of(puller.announced(1, computed(3, 51, 52), 0.0))
    end = end_of(puller.pulled(one.pull, "timed out", 0.1, is_over=False))
    assert (end.num_good, sorted(end.busy)) == (0, [11, 12, 13])
    assert puller.pulled(two.pull, "", 0.2) == [], "one READ may still write"
    assert puller.pulled(one.pull, "", 0.3) == [CloseArrival(number=1)]
    assert puller.pulled(one.pull, "", 0.4) == []


@pytest.mark.parametrize(
    "announcement",
    [
        computed(3, 50),
        computed(1, 50),
        computed(2),
        computed(2, 50, 51, 52, 53, 54),
        computed(2, 50, 50),
        computed(2, 0),
        computed(2, -1),
        computed(2, 100),
        computed(2, 50, checksums=[(1, 5)]),
        LEASE,
        Ended(),
        Ended(why="full"),
    ],
    ids=str,
)
def test_an_announcement_that_cannot_be_fails_the_arrival(announcement):
    puller = build_puller()
    puller.announced(1, LEASE, 0.0)
    end = end_of(puller.announced(1, announcement, 0.1))
    assert end is not None
    assert (end.num_good, end.is_whole) == (0, False)
    assert end.why


def test_a_block_that_was_announced_before_fails_the_arrival():
    puller = build_puller()
    puller.announced(1, LEASE, 0.0)
    puller.announced(1, computed(2, 50), 0.0)
    end = end_of(puller.announced(1, computed(3, 50), 0.0))
    assert (end.num_good, end.busy) == (0, [11])


@pytest.mark.parametrize(
    "lease", [Granted(lease=-1, epoch=1, seconds=1), Granted(lease=1, epoch=0, seconds=1)], ids=str
)
def test_a_lease_that_cannot_be_is_refused(lease):
    assert end_of(build_puller().announced(1, lease, 0.0)).why


def test_blocks_without_a_lease_are_refused():
    assert end_of(build_puller().announced(1, computed(2, 50), 0.0)).why == "the peer announced blocks without a lease"


def test_no_progress_fails_the_arrival_and_progress_does_not():
    puller = build_puller(patience=3.0)
    assert puller.tick(STALL + 3.0) == []
    puller.announced(1, LEASE, 8.0)
    pull = pull_of(puller.announced(1, computed(2, 50), 9.0))
    assert puller.tick(9.0 + STALL) == []
    puller.pulled(pull.pull, "", 13.0)
    assert puller.tick(13.0 + STALL + 3.0) == [], "it waits for the peer to compute, which may take longer"
    end = end_of(puller.tick(13.0 + STALL + 3.1))
    assert end.num_good == 1
    assert "no progress" in end.why


def test_a_read_that_hangs_fails_after_the_stall_time_whatever_the_patience():
    puller = build_puller(patience=100.0)
    puller.announced(1, LEASE, 0.0)
    puller.announced(1, computed(2, 50), 0.0)
    assert end_of(puller.tick(STALL + 0.1)).busy == [11]


def test_losing_a_peer_ends_all_its_arrivals_and_no_other():
    puller = build_puller()
    puller.begin(2, PEER + 1, 0, [20], 0.0, num_remote_blocks=9)
    puller.begin(3, PEER, 0, [30], 0.0, num_remote_blocks=9)
    puller.announced(1, LEASE, 0.0)
    actions = puller.peer_lost(PEER, "gone", is_death=True)
    ends = [action for action in actions if isinstance(action, EndArrival)]
    assert [(end.number, end.is_death, end.why) for end in ends] == [(1, True, "gone"), (3, True, "gone")]
    assert not any(isinstance(action, GiveLeaseBack) for action in actions), "nobody is there to take it"
    assert 2 in puller


def test_a_cancelled_arrival_keeps_what_came_and_is_no_failure():
    puller = build_puller()
    puller.announced(1, LEASE, 0.0)
    pull = pull_of(puller.announced(1, computed(2, 50), 0.0))
    puller.pulled(pull.pull, "", 0.0)
    end, lease, hang_up, close = puller.cancel(1)
    assert (end.num_good, end.why, end.is_whole) == (1, "", False)
    assert (lease, hang_up, close) == (
        GiveLeaseBack(peer=PEER, lease=3, epoch=99),
        HangUp(number=1),
        CloseArrival(number=1),
    )
    assert puller.cancel(1) == puller.call_lost(1, "late") == puller.announced(1, Ended(), 1.0) == []


def test_leases_are_needed_exactly_while_their_arrival_is_open():
    puller = build_puller()
    assert puller.leases() == {}
    puller.announced(1, LEASE, 0.0)
    assert puller.leases() == {PEER: [(3, 99)]}
    puller.cancel(1)
    assert puller.leases() == {}


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("computed"), st.integers(0, 5), st.lists(st.integers(0, 12), max_size=4)),
        st.tuples(st.just("granted"), st.integers(0, 2)),
        st.tuples(st.just("ended"), st.sampled_from(["", "full"])),
        st.tuples(st.just("pulled"), st.integers(1, 6), st.sampled_from(["", "bad"]), st.booleans()),
        st.tuples(st.just("tick"), st.floats(0, 4)),
        st.tuples(st.sampled_from(["lost", "cancel", "peer"])),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_whatever_happens_only_covered_blocks_count_and_written_ones_stay_busy(events):
    blocks, now = [11, 12, 13, 14], 0.0
    puller = build_puller(blocks, start=0)
    started: dict[int, StartPull] = {}
    good: set[int] = set()
    over: set[int] = set()
    ends: list[EndArrival] = []
    closes = 0
    for name, *values in events:
        actions = []
        if name == "computed":
            actions = puller.announced(1, computed(values[0], *values[1]), now)
        elif name == "granted":
            actions = puller.announced(1, Granted(lease=1, epoch=values[0], seconds=1), now)
        elif name == "ended":
            actions = puller.announced(1, Ended(why=values[0]), now)
        elif name == "pulled" and values[0] in started and values[0] not in over:
            pull, why, is_over = values
            if is_over:
                over.add(pull)
            if is_over and not why:
                good.update(started[pull].local)
            actions = puller.pulled(pull, why, now, is_over=is_over)
        elif name == "tick":
            now += values[0]
            actions = puller.tick(now)
        elif name == "lost":
            actions = puller.call_lost(1, "lost")
        elif name == "cancel":
            actions = puller.cancel(1)
        elif name == "peer":
            actions = puller.peer_lost(PEER, "gone")
        for action in actions:
            if isinstance(action, StartPull):
                assert not ends, "a READ began after the end"
                started[action.pull] = action
            elif isinstance(action, EndArrival):
                ends.append(action)
                assert set(blocks[: action.num_good]) <= good
                written = {b for pull, a in started.items() if pull not in over for b in a.local}
                assert written == set(action.busy)
            elif isinstance(action, CloseArrival):
                closes += 1
                assert set(started) == over, "closed while a READ may still write"
    assert len(ends) <= 1
    assert closes <= len(ends)
    assert puller.has_work == (not closes)
    if good == set(blocks):
        assert ends
