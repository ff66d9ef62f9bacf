from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.core.kv.block_pool import BlockPool
from penstock.core.kv.tickets import Tickets
from penstock.core.trace import read_trace, replay
from support.engines import BLOCK_SIZE, build_bench
from support.fake_device import expected_outputs, fingerprint

CHAIN = [bytes([n]) for n in range(6)]


def build_tickets(num_blocks=12):
    pool = BlockPool(num_blocks)
    return pool, Tickets(pool)


def cache(pool, names):
    blocks = pool.allocate(len(names))
    for block, name in zip(blocks, names, strict=True):
        pool.remember(block, name)
    pool.release(blocks)
    return blocks


def test_an_arrival_brings_what_follows_the_cached_beginning():
    pool, tickets = build_tickets()
    cache(pool, CHAIN[:2])
    start, blocks = tickets.begin_arrival(1, CHAIN, spare=0)
    assert (start, len(blocks)) == (2, 4)
    assert [tickets.is_arriving(name) for name in CHAIN] == [False, False, True, True, True, True]
    assert pool.num_free == 11 - 6, "the cached beginning must stay"
    tickets.end_arrival(1, 4)
    tickets.close_arrival(1)
    assert pool.find(CHAIN)[2:] == blocks
    assert pool.num_free == 11


def test_only_the_good_beginning_of_an_arrival_is_found():
    pool, tickets = build_tickets()
    _, blocks = tickets.begin_arrival(1, CHAIN, spare=0)
    tickets.end_arrival(1, 2)
    assert pool.find(CHAIN) == blocks[:2]
    assert not any(map(tickets.is_arriving, CHAIN))


def test_busy_blocks_come_back_when_nothing_writes_to_them_any_more():
    pool, tickets = build_tickets()
    _, blocks = tickets.begin_arrival(1, CHAIN, spare=0)
    tickets.end_arrival(1, 1, blocks[2:4])
    assert pool.num_free == 11 - 2
    assert pool.allocate(10) is None
    tickets.close_arrival(1)
    assert pool.num_free == 11
    tickets.close_arrival(1)


def test_what_is_arriving_is_not_asked_for_twice():
    _, tickets = build_tickets()
    tickets.begin_arrival(1, CHAIN[:3], spare=0)
    assert tickets.begin_arrival(2, CHAIN[:3], spare=0) is None
    assert tickets.begin_arrival(2, CHAIN, spare=0)[0] == 3


def test_an_arrival_leaves_room_for_others_or_does_not_begin():
    pool, tickets = build_tickets()
    cache(pool, CHAIN[:2])
    assert tickets.begin_arrival(1, CHAIN, spare=6) is None, "two cached blocks would be taken as well"
    assert pool.num_free == 11
    assert tickets.begin_arrival(1, CHAIN, spare=5) is not None


def test_lent_blocks_outlive_their_owner():
    pool, tickets = build_tickets(num_blocks=3)
    cache(pool, CHAIN[:2])
    lent = tickets.lend(CHAIN)
    assert pool.allocate(1) is None
    tickets.return_lent(lent)
    assert tickets.num_blocks == 0
    assert len(pool.allocate(2)) == 2


def test_a_request_waits_for_its_blocks_and_starts_behind_what_came():
    bench = build_bench()
    scheduler = bench.core.scheduler
    prompt = list(range(20))
    request = bench.add([*prompt], max_tokens=3)
    [entry] = scheduler.waiting
    _, blocks = scheduler.tickets.begin_arrival(1, entry.hashes[:4], spare=0)
    for _ in range(3):
        bench.step()
    assert scheduler.running.size == 0
    assert bench.core.is_waiting
    for index, block in enumerate(blocks[:3]):
        for at in range(BLOCK_SIZE):
            known = request.prompt_array()[: index * BLOCK_SIZE + at + 1]
            bench.device.contents[block, at] = fingerprint(known)
    scheduler.tickets.end_arrival(1, 3)
    bench.run()
    assert bench.cached[request.handle] == 3 * BLOCK_SIZE
    assert bench.outputs[request.handle] == expected_outputs(request.prompt_array(), request.max_total, (7,))
    bench.check()


def test_a_trace_with_tickets_replays(tmp_path):
    bench = build_bench(trace_file=str(tmp_path / "trace"))
    bench.add(list(range(20)), max_tokens=3)
    scheduler = bench.core.scheduler
    [entry] = scheduler.waiting
    scheduler.tickets.begin_arrival(1, entry.hashes[:4], spare=0)
    bench.step()
    scheduler.tickets.end_arrival(1, 0)
    scheduler.tickets.close_arrival(1)
    bench.run()
    scheduler.tickets.return_lent(scheduler.tickets.lend(entry.hashes))
    bench.core.close()
    assert len(list(read_trace(tmp_path / "trace"))) > 10
    assert replay(tmp_path / "trace") > 0


class Books(RuleBasedStateMachine):
    """Whatever order things happen in, the books are right, and nothing is lost."""

    def __init__(self):
        super().__init__()
        self.pool, self.tickets = build_tickets()
        self.open: dict[int, list[int]] = {}
        self.draining: set[int] = set()
        self.lent: list[list[int]] = []
        self.owned: list[list[int]] = []
        self.number = 0

    @rule(names=st.integers(1, 6), spare=st.integers(0, 3))
    def begin(self, names, spare):
        self.number += 1
        if (arrival := self.tickets.begin_arrival(self.number, CHAIN[:names], spare=spare)) is not None:
            self.open[self.number] = arrival[1]
            assert self.pool.num_free >= spare

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data):
        number = data.draw(st.sampled_from(sorted(self.open)))
        blocks = self.open.pop(number)
        num_good = data.draw(st.integers(0, len(blocks)))
        busy = blocks[num_good:] if data.draw(st.booleans()) else []
        self.tickets.end_arrival(number, num_good, busy)
        self.draining.add(number)

    @precondition(lambda self: self.draining)
    @rule(data=st.data())
    def close(self, data):
        number = data.draw(st.sampled_from(sorted(self.draining)))
        self.draining.remove(number)
        self.tickets.close_arrival(number)

    @rule(names=st.integers(1, 6))
    def lend(self, names):
        self.lent.append(self.tickets.lend(CHAIN[:names]))

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def return_lent(self, data):
        self.tickets.return_lent(self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1))))

    @rule(count=st.integers(1, 4))
    def own(self, count):
        if (blocks := self.pool.allocate(count)) is not None:
            self.owned.append(blocks)

    @precondition(lambda self: self.owned)
    @rule()
    def release(self):
        self.pool.release(self.owned.pop())

    @invariant()
    def books_are_right(self):
        assert self.pool.check_integrity() is None
        written = [block for blocks in self.open.values() for block in blocks]
        assert len(set(written)) == len(written), "two arrivals write to one block"
        assert not set(written) & {block for blocks in self.owned for block in blocks}

    def teardown(self):
        for number in self.open:
            self.tickets.end_arrival(number, 0)
        for number in [*self.open, *self.draining]:
            self.tickets.close_arrival(number)
        for blocks in self.lent:
            self.tickets.return_lent(blocks)
        for blocks in self.owned:
            self.pool.release(blocks)
        assert self.tickets.num_blocks == 0
        assert self.pool.num_free == 11


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
