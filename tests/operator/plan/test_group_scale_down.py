"""Fewer groups of a LeaderWorkerSet: its controller ends the highest indices, so these are the ones to drain."""

from __future__ import annotations

from penstock_operator.kinds import LEADER_WORKER_SET
from penstock_operator.observed.seen import LoadSeen, PodSeen
from penstock_operator.plan.actions import Drain, SetReplicas
from penstock_operator.plan.scale_down import Resize, resize
from support.observations import NOW, pod_seen, workload_seen


def leader(index: int, *, is_ready: bool = True, drained_since: float | None = None) -> PodSeen:
    return pod_seen(f"huge-both-a-{index}", is_ready=is_ready, drained_since=drained_since)


def shrink(target: int, *leaders: PodSeen, wanted: int, busy: tuple[int, ...] = ()) -> Resize:
    workload = workload_seen("huge-both-a", wanted, kind=LEADER_WORKER_SET, num_available=0)
    loads = {
        pod.name: LoadSeen(
            pod=pod.name, at=NOW, running=index in busy, waiting=0, queued_tokens=0, leases=0, kv_usage=0.0
        )
        for index, pod in enumerate(leaders)
    }
    return resize(workload, target, leaders, loads, NOW, why="fewer")


def told(change: Resize, *, is_undrain: bool = False) -> list[str]:
    found = [one for one in change.actions if isinstance(one, Drain) and one.is_undrain == is_undrain]
    return [one.pod for one in found]


def sizes(change: Resize) -> list[tuple[str, int]]:
    return [(one.kind.kind, one.replicas) for one in change.actions if isinstance(one, SetReplicas)]


def test_the_highest_index_is_drained_however_busy_it_is_and_however_idle_others_are():
    change = shrink(2, leader(0, is_ready=False), leader(1), leader(2), wanted=3, busy=(2,))
    assert told(change) == ["huge-both-a-2"]
    assert sizes(change) == []


def test_indices_count_as_numbers_and_not_as_letters():
    leaders = [leader(index) for index in range(11)]
    assert told(shrink(10, *leaders, wanted=11)) == ["huge-both-a-10"]


def test_an_index_that_goes_is_drained_even_if_a_lower_one_has_no_pod_just_now():
    assert told(shrink(2, leader(0), leader(2), wanted=3)) == ["huge-both-a-2"]


def test_the_set_is_made_smaller_when_its_victims_have_nothing_left_to_do():
    change = shrink(1, leader(0), leader(1, is_ready=False, drained_since=NOW - 10), wanted=2)
    assert sizes(change) == [("LeaderWorkerSet", 1)]
    change = shrink(1, leader(0), leader(1, is_ready=False, drained_since=NOW - 10), wanted=2, busy=(1,))
    assert sizes(change) == []


def test_who_stays_is_undrained():
    change = shrink(1, leader(0, is_ready=False, drained_since=NOW - 10), leader(1), wanted=2)
    assert told(change, is_undrain=True) == ["huge-both-a-0"]
