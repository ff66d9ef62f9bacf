"""Pods that have ended, and what they still tell."""

from __future__ import annotations

from penstock_operator.observed.failures import failures, living
from penstock_operator.observed.seen import PodSeen
from support.observations import pod_seen


def pod(name: str, phase: str, *, created: float, is_ready: bool = False, revision: str = "r1") -> PodSeen:
    return pod_seen(name, phase=phase, created=created, is_ready=is_ready, revision=revision)


def names(pods) -> list[str]:
    return [pod.name for pod in pods]


def test_a_failure_counts_until_a_pod_that_came_after_it_is_ready():
    first, second = pod("a", "Failed", created=1), pod("b", "Failed", created=5)
    starting, ready = pod("d", "Running", created=9), pod("c", "Running", created=7, is_ready=True)
    assert names(failures([first, second, starting])) == ["b", "a"]
    assert names(failures([first, second, starting, ready])) == []
    assert names(living([first, starting, ready])) == ["c", "d"]


def test_a_pod_that_was_ready_before_says_nothing_of_those_that_came_after():
    ready = pod("a", "Running", created=1, is_ready=True)
    assert names(failures([ready, pod("b", "Failed", created=5)])) == ["b"]


def test_one_revision_does_not_answer_for_another():
    ready = pod("a", "Running", created=9, is_ready=True, revision="r2")
    assert names(failures([ready, pod("b", "Failed", created=5)])) == ["b"]


def test_a_download_that_succeeded_at_last_has_no_failures():
    assert names(failures([pod("a", "Failed", created=1), pod("b", "Succeeded", created=5)])) == []
