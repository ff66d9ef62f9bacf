"""Who goes when there are to be fewer pods, and what happens before."""

from __future__ import annotations

from penstock_operator import names
from penstock_operator.observed.seen import LoadSeen, PodSeen
from penstock_operator.plan.actions import Annotate, Drain, SetReplicas
from penstock_operator.plan.scale_down import BLIND_SECONDS, LOWEST_COST, PATIENCE_SECONDS, resize
from support.observations import NOW, pod_seen, workload_seen


def pod(name: str, **fields) -> PodSeen:
    """One that serves."""
    return pod_seen(name, role="decode", **fields)


def load(name: str, running: int = 0, *, at: float = NOW, leases: int = 0) -> LoadSeen:
    """What it does."""
    return LoadSeen(pod=name, at=at, running=running, waiting=0, queued_tokens=0, leases=leases, kv_usage=0.0)


def shrink(target: int, *pods: PodSeen, loads: tuple[LoadSeen, ...] = (), wanted: int | None = None, now: float = NOW):
    """From as many as there are."""
    asked = len(pods) if wanted is None else wanted
    workload = workload_seen("chat-decode-a", len(pods), role="decode", wanted=asked)
    return resize(workload, target, pods, {one.pod: one for one in loads}, now, why="fewer")


def drained(actions) -> list[str]:
    return [action.pod for action in actions if isinstance(action, Drain) and not action.is_undrain]


def sizes(actions) -> list[int]:
    return [action.replicas for action in actions if isinstance(action, SetReplicas)]


def test_the_pod_with_the_least_to_do_is_marked_then_told_and_nothing_shrinks_yet():
    busy, idle = pod("busy"), pod("idle")
    change = shrink(1, busy, idle, loads=(load("busy", 5), load("idle", 1)))
    assert [type(action) for action in change.actions] == [Annotate, Drain]
    marks = change.actions[0].annotations
    assert change.actions[0].name == "idle"
    assert marks[names.DELETION_COST] == str(LOWEST_COST)
    assert change.actions[1].address == "10.0.0.7:8001"
    assert 0 < change.wake_after <= 2


def test_it_shrinks_when_the_victim_has_nothing_left_to_do():
    victim = pod("idle", drained_since=NOW - 3, is_ready=False)
    still = shrink(1, pod("busy"), victim, loads=(load("idle", 1),))
    assert sizes(still.actions) == []
    held = shrink(1, pod("busy"), victim, loads=(load("idle", leases=1),))
    assert sizes(held.actions) == [], "a lease is a promise to a decode pod"
    done = shrink(1, pod("busy"), victim, loads=(load("idle"),))
    assert sizes(done.actions) == [1]


def test_what_a_pod_said_before_it_was_told_to_drain_is_not_believed():
    victim = pod("idle", drained_since=NOW - 3)
    assert sizes(shrink(1, pod("busy"), victim, loads=(load("idle", at=NOW - 2.1),)).actions) == []


def test_patience_ends_and_it_ends_sooner_with_a_pod_that_says_nothing():
    busy = pod("idle", drained_since=NOW, is_ready=False)
    loads = (load("idle", 3, at=NOW + 2),)
    assert sizes(shrink(0, busy, loads=loads, now=NOW + PATIENCE_SECONDS - 1).actions) == []
    assert sizes(shrink(0, busy, loads=loads, now=NOW + PATIENCE_SECONDS).actions) == [0]
    assert sizes(shrink(0, busy, now=NOW + BLIND_SECONDS - 1).actions) == []
    assert sizes(shrink(0, busy, now=NOW + BLIND_SECONDS).actions) == [0]


def test_what_does_not_serve_goes_first_and_at_once():
    pods = (pod("a"), pod("pending", node="", phase="Pending", is_ready=False), pod("starting", is_ready=False))
    change = shrink(1, *pods)
    assert [type(action) for action in change.actions] == [SetReplicas]
    assert sizes(change.actions) == [1]


def test_who_drains_already_goes_before_who_only_starts():
    pods = (pod("a"), pod("starting", is_ready=False), pod("drained", drained_since=NOW - 99, is_ready=False))
    change = shrink(2, *pods)
    assert drained(change.actions) == []
    assert sizes(change.actions) == [2]


def test_a_pod_that_is_needed_again_is_told_so_until_it_is_ready_and_then_its_mark_goes():
    change = shrink(2, pod("a"), pod("b", drained_since=NOW - 3, is_ready=False))
    assert [action.is_undrain for action in change.actions] == [True]
    assert change.wake_after is not None
    change = shrink(2, pod("a"), pod("b", drained_since=NOW - 3))
    assert [type(action) for action in change.actions] == [Drain, Annotate]
    assert change.actions[0].is_undrain
    assert set(change.actions[1].annotations.values()) == {None}


def test_a_victim_that_lives_on_after_the_shrink_is_undrained():
    change = shrink(1, pod("victim", drained_since=NOW - 9, is_ready=False), wanted=1)
    assert [action.is_undrain for action in change.actions if isinstance(action, Drain)] == [True]


def test_a_victim_stays_marked_until_its_replica_set_has_looked():
    pods = (pod("a"), pod("victim", drained_since=NOW - 9, is_ready=False))
    assert shrink(1, *pods, wanted=1, loads=(load("victim"),)).actions == ()


def test_a_pod_that_has_a_mark_and_still_serves_is_told_again():
    victim = pod("victim", drained_since=NOW - 1)
    change = shrink(0, victim)
    assert drained(change.actions) == ["victim"]
    assert not any(isinstance(action, Annotate) for action in change.actions)


def test_pods_that_are_ending_are_neither_victims_nor_counted():
    change = shrink(1, pod("a"), pod("ending", leaves_by=NOW + 20), wanted=2)
    assert drained(change.actions) == []
    assert sizes(change.actions) == [1]


def test_growing_needs_nothing_else():
    assert [type(action) for action in shrink(3, pod("a")).actions] == [SetReplicas]
    assert shrink(1, pod("a")).actions == ()


def test_an_address_of_ipv6_is_written_in_brackets():
    change = shrink(0, pod("a", address="fd00::7"))
    assert next(action.address for action in change.actions if isinstance(action, Drain)) == "[fd00::7]:8001"
