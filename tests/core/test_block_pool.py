from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.core.kv.block_pool import DUMMY_BLOCK, BlockPool
from penstock.core.kv.groups import GroupKind, KVGroup
from penstock.errors import ModelError


def test_the_dummy_block_is_never_given_out():
    pool = BlockPool(5)
    assert sorted(pool.allocate(4)) == [1, 2, 3, 4]
    assert pool.allocate(1) is None
    assert DUMMY_BLOCK == 0


def test_a_freed_block_is_found_until_it_is_reused():
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    for block, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.remember(block, name)
    pool.release(blocks)
    assert pool.find([b"a", b"b", b"c", b"d"]) == blocks
    (reused,) = pool.allocate(1)
    assert reused == blocks[2], "the end of the sequence goes first"
    assert pool.find([b"a", b"b", b"c"]) == blocks[:2]


def test_blocks_without_a_name_are_reused_before_cached_ones():
    pool = BlockPool(4)
    cached, plain = pool.allocate(1), pool.allocate(2)
    pool.remember(cached[0], b"a")
    pool.release(cached)
    pool.release(plain)
    assert cached[0] not in pool.allocate(2)


def test_a_ticket_keeps_a_block_that_has_no_owner():
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.take_tickets(blocks[:1])
    pool.release(blocks)
    assert pool.allocate(2) is None
    pool.return_tickets(blocks[:1])
    assert sorted(pool.allocate(2)) == sorted(blocks)
    assert pool.check_integrity() is None


@pytest.mark.parametrize(
    "break_it",
    [
        lambda pool: pool._owners.__setitem__(1, 0),
        lambda pool: pool._owners.__setitem__(3, 1),
        lambda pool: pool._tickets.__setitem__(3, 1),
        lambda pool: setattr(pool, "num_free", 1),
        lambda pool: pool._next.__setitem__(3, 3),
        lambda pool: pool._cached.__setitem__(b"x", 2),
    ],
)
def test_the_integrity_check_notices_damage(break_it):
    pool = BlockPool(5)
    pool.allocate(2)
    assert pool.check_integrity() is None
    break_it(pool)
    assert pool.check_integrity() is not None


def test_groups_that_are_not_there_yet_are_refused_by_name():
    with pytest.raises(ModelError, match="mamba"):
        KVGroup(kind=GroupKind.MAMBA, block_size=16)


class AnyUse(RuleBasedStateMachine):
    """Owners, sharers and tickets in any order: every block is free or held, never both, and counts agree."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12)
        self.owned: list[list[int]] = []
        self.tickets: list[list[int]] = []

    @rule(count=st.integers(1, 5), name=st.integers(0, 30))
    def allocate(self, count, name):
        free = self.pool.num_free
        blocks = self.pool.allocate(count)
        assert (blocks is None) == (count > free)
        if blocks:
            self.pool.remember(blocks[0], bytes([name]))
            self.owned.append(blocks)

    @rule(names=st.lists(st.integers(0, 30), max_size=4))
    def share(self, names):
        found = list(dict.fromkeys(self.pool.find([bytes([name]) for name in names])))
        self.pool.hold(found)
        self.owned.append(found)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def release(self, data):
        self.pool.release(self.owned.pop(data.draw(st.integers(0, len(self.owned) - 1))))

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def ticket(self, data):
        blocks = data.draw(st.sampled_from(self.owned))
        self.pool.take_tickets(blocks)
        self.tickets.append(blocks)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def untick(self, data):
        self.pool.return_tickets(self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1))))

    @invariant()
    def is_whole(self):
        assert self.pool.check_integrity() is None
        held = {block for blocks in [*self.owned, *self.tickets] for block in blocks}
        assert self.pool.num_free == 11 - len(held)


TestAnyUse = AnyUse.TestCase
