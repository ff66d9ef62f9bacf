"""The arithmetic of rollouts: which numbers follow which."""

from __future__ import annotations

import pytest

from penstock_operator.plan.pause import paused_sizes
from penstock_operator.plan.rollout import Budget, Goal, Revision, Rollout, Size, next_sizes

FREE = Budget(gpus=None, per_pod={})


def running(count: int, **fields: int) -> Size:
    """Pods that are all there and ready."""
    return Size(**{"wanted": count, "staying": count, "ready": count, **fields})


def revision(name: str, *sizes: Size) -> Revision:
    """Of one role, or of prefill and decode."""
    roles = ("both",) if len(sizes) == 1 else ("prefill", "decode")
    return Revision(name=name, sizes=dict(zip(roles, sizes, strict=False)))


def rollout(replicas: tuple[int, ...], new: Revision, *olds: Revision, surge=1, unavailable=0, budget=FREE) -> Rollout:
    """To so many pods of each role."""
    roles = ("both",) if len(replicas) == 1 else ("prefill", "decode")
    goals = {
        role: Goal(replicas=count, surge=surge, unavailable=unavailable)
        for role, count in zip(roles, replicas, strict=True)
    }
    return Rollout(goals=goals, new=new, olds=olds, budget=budget)


def walk(replicas: tuple[int, ...], **settings) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All states of a rollout where pods come and go at once: of the new and of the old revision."""
    new, old, seen = revision("b", *([Size()] * len(replicas))), revision("a", *map(running, replicas)), []
    roles = list(new.sizes)
    while not seen or seen[-1] != (state := _state(new, old)):
        seen.append(_state(new, old))
        sizes = next_sizes(rollout(replicas, new, old, **settings))
        base = {role: max(old.sizes[role].baseline, old.sizes[role].wanted) for role in roles}
        new = revision("b", *(running(sizes.new[role]) for role in roles))
        old = revision("a", *(running(sizes.olds["a"][role], baseline=base[role]) for role in roles))
        state = _state(new, old)
        if seen[-1] == state:
            break
    return seen


def _state(new: Revision, old: Revision) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(size.wanted for size in new.sizes.values()), tuple(size.wanted for size in old.sizes.values())


def test_both_roles_move_together_by_steps_of_one():
    assert walk((1, 4)) == [
        ((0, 0), (1, 4)),
        ((1, 1), (1, 4)),
        ((1, 1), (1, 3)),
        ((1, 2), (1, 3)),
        ((1, 2), (1, 2)),
        ((1, 3), (1, 2)),
        ((1, 3), (1, 1)),
        ((1, 4), (1, 1)),
        ((1, 4), (0, 0)),
    ]


def test_more_surge_makes_larger_steps():
    assert walk((4,), surge=4) == [((0,), (4,)), ((4,), (4,)), ((4,), (0,))]
    assert walk((2, 6), surge=2)[1] == ((1, 2), (2, 6)), "decode has room for 2 of 6, so prefill takes 1 of 2"


def test_without_surge_the_old_revision_gives_first():
    states = walk((2, 4), surge=0, unavailable=1)
    for new, old in states:
        prefill, decode = map(sum, zip(new, old, strict=True))
        assert 1 <= prefill <= 2
        assert 3 <= decode <= 4
    assert states[-1] == ((2, 4), (0, 0))


@pytest.mark.parametrize("prefill", range(1, 6))
@pytest.mark.parametrize("decode", range(1, 9))
@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (3, 0), (2, 2)])
def test_every_shape_gets_there(prefill, decode, surge, unavailable):
    assert walk((prefill, decode), surge=surge, unavailable=unavailable)[-1] == ((prefill, decode), (0, 0))


def test_with_one_pod_of_surge_no_revision_is_left_with_one_role_only():
    for replicas in ((1, 4), (2, 3), (3, 5), (4, 1)):
        for new, old in walk(replicas):
            assert all(new) or not any(new)
            assert all(old) or not any(old)


def test_pods_that_are_ending_take_room():
    new, old = revision("b", running(1)), revision("a", running(1, leaving=1, baseline=2))
    assert next_sizes(rollout((2,), new, old)).new == {"both": 1}
    gone = revision("a", running(1, baseline=2))
    assert next_sizes(rollout((2,), new, gone)).new == {"both": 2}


def test_revisions_in_between_go_first():
    old, between = (
        revision("a", running(3, baseline=4)),
        revision(
            "b",
            running(1),
        ).sizes,
    )
    sizes = next_sizes(rollout((4,), revision("c", Size()), old, Revision(name="b", sizes=between)))
    assert sizes.olds == {"a": {"both": 3}, "b": {"both": 1}}, "all four are needed"
    full = revision("a", running(4))
    sizes = next_sizes(rollout((4,), revision("c", Size()), full, Revision(name="b", sizes=between)))
    assert sizes.olds == {"a": {"both": 4}, "b": {"both": 0}}


def test_a_bad_revision_costs_no_more_than_its_surge():
    bad, old = revision("b", running(1, ready=0, troubled=1)), revision("a", running(2))
    assert next_sizes(rollout((8,), bad, old, surge=1)).new == {"both": 1}


def test_the_old_revision_takes_the_load_that_a_bad_one_cannot():
    bad, old = revision("b", running(1, ready=0, troubled=1)), revision("a", running(2))
    assert next_sizes(rollout((8,), bad, old)).olds == {"a": {"both": 8}}


def test_an_old_revision_in_trouble_makes_room_at_once():
    old = revision("a", running(2, ready=0, troubled=2))
    assert next_sizes(rollout((2,), revision("b", Size()), old)).olds == {"a": {"both": 0}}


def test_surge_beyond_the_gpu_budget_is_not_begun_and_said():
    budget = Budget(gpus=4, per_pod={"both": 2})
    sizes = next_sizes(rollout((2,), revision("b", Size()), revision("a", running(2)), budget=budget))
    assert (sizes.new, sizes.olds, sizes.is_over_budget) == ({"both": 0}, {"a": {"both": 2}}, True)


def test_within_the_gpu_budget_pods_go_before_others_come_if_some_may_be_missing():
    budget = Budget(gpus=4, per_pod={"both": 2})
    sizes = next_sizes(
        rollout((2,), revision("b", Size()), revision("a", running(2)), surge=1, unavailable=1, budget=budget)
    )
    assert sizes.olds == {"a": {"both": 1}}
    after = rollout((2,), revision("b", Size()), revision("a", running(1, baseline=2)), unavailable=1, budget=budget)
    assert next_sizes(after).new == {"both": 1}


def test_pods_that_are_ending_count_in_the_gpu_budget():
    budget = Budget(gpus=4, per_pod={"both": 1})
    only = revision("a", running(2, leaving=1))
    assert next_sizes(rollout((4,), only, budget=budget)).new == {"both": 3}


def test_without_a_rollout_the_goal_is_followed_at_once():
    assert next_sizes(rollout((7,), revision("a", running(2, leaving=3)))).new == {"both": 7}
    assert next_sizes(rollout((1, 1), revision("a", running(3), running(2)))).new == {"prefill": 1, "decode": 1}


def test_nothing_wanted_is_nothing_kept():
    sizes = next_sizes(rollout((0,), revision("b", running(1)), revision("a", running(3))))
    assert (sizes.new, sizes.olds) == ({"both": 0}, {"a": {"both": 0}})


def test_pods_of_other_roles_serve_until_the_new_ones_are_complete_and_reached():
    old = Revision(name="a", sizes={"both": running(3)})
    begun = rollout((1, 2), revision("b", Size(), Size()), old)
    assert next_sizes(begun).new == {"prefill": 1, "decode": 2}
    assert next_sizes(begun).olds == {"a": {"both": 3}}
    complete = Rollout(
        goals=begun.goals, new=revision("b", running(1), running(2)), olds=(old,), budget=FREE, is_switched=False
    )
    assert next_sizes(complete).olds == {"a": {"both": 3}}
    assert next_sizes(rollout((1, 2), complete.new, old)).olds == {"a": {"both": 0}}


def test_a_pause_keeps_every_revision_as_it_is():
    paused = rollout((4,), revision("b", running(1, ready=0)), revision("a", running(4)))
    assert paused_sizes(paused).new == {"both": 1}
    assert paused_sizes(paused).olds == {"a": {"both": 4}}


def test_a_pause_follows_the_number_of_pods_with_the_revision_that_serves():
    paused = rollout((6,), revision("b", running(1)), revision("a", running(3)))
    assert paused_sizes(paused).olds == {"a": {"both": 5}}
    fewer = rollout((2,), revision("b", running(1)), revision("a", running(3)))
    assert (paused_sizes(fewer).olds, paused_sizes(fewer).new) == ({"a": {"both": 2}}, {"both": 1})
    none = rollout((0,), revision("b", running(1)), revision("a", running(3)))
    assert (paused_sizes(none).olds, paused_sizes(none).new) == ({"a": {"both": 0}}, {"both": 0})


def test_a_change_that_comes_while_it_is_paused_begins_nothing():
    paused = rollout((2,), Revision(name="b", sizes={}), revision("a", running(2)))
    assert paused_sizes(paused).new == {}


def test_pods_of_the_new_revision_that_are_ending_take_room_too():
    new, old = revision("b", running(1, leaving=1)), revision("a", running(1, baseline=3))
    assert next_sizes(rollout((3,), new, old)).new == {"both": 2}


def test_what_the_spec_itself_adds_comes_with_the_new_revision_and_what_load_asks_for_comes_at_once():
    goal = {"replicas": 3, "surge": 1, "unavailable": 0}
    starting, old = revision("b", Size(wanted=1, staying=1)), revision("a", running(2))

    def olds(new: Revision, **fields: bool) -> dict[str, dict[str, int]]:
        return next_sizes(Rollout(goals={"both": Goal(**goal, **fields)}, new=new, olds=(old,), budget=FREE)).olds

    assert olds(starting, is_fixed=True) == {"a": {"both": 2}}, "it would be shrunk again as soon as the new one serves"
    assert olds(starting) == {"a": {"both": 3}}
    assert olds(revision("b", Size(wanted=1, staying=1, troubled=1)), is_fixed=True) == {"a": {"both": 3}}
