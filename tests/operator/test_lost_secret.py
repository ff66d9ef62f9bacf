"""A Secret that somebody deletes: the operator may not read it, and learns from pods that cannot mount it."""

from __future__ import annotations

import pytest

from penstock_operator.kinds import POD, SECRET
from penstock_operator.names import COMPONENT, ROUTER, Key
from support.operator_run import OperatorRun

MOUNTING = [
    {"type": "PodScheduled", "status": "True"},
    {"type": "PodReadyToStartContainers", "status": "False"},
    {"type": "Ready", "status": "False"},
]


@pytest.fixture
def run() -> OperatorRun:
    run = OperatorRun()
    run.create()
    run.settle()
    return run


def lose_the_secret(run: OperatorRun) -> None:
    (secret,) = run.api.all(SECRET)
    run.api.remove(SECRET, "default", secret["metadata"]["name"])


def begin_a_pod(run: OperatorRun) -> None:
    """A pod as a kubelet shows it while it has not mounted everything."""
    name = next(pod["metadata"]["name"] for pod in run.api.all(POD) if pod["metadata"]["labels"][COMPONENT] != ROUTER)
    run.api.remove(POD, "default", name)
    run.cluster.step()
    made = max(run.api.all(POD), key=lambda pod: int(pod["metadata"]["uid"].rpartition("-")[2]))
    status = {"phase": "Pending", "conditions": MOUNTING}
    run.api.update(POD, "default", made["metadata"]["name"], {"status": status})


def applies_of_the_secret(run: OperatorRun) -> int:
    return sum(kind == "Secret" for _, kind, _ in run.writes())


def test_it_is_there_again_seconds_after_a_pod_missed_it(run):
    run.now += 60
    lose_the_secret(run)
    begin_a_pod(run)
    run.work()
    assert run.api.all(SECRET) == []
    run.now += 11  # nothing happens meanwhile but time
    run.work()
    assert len(run.api.all(SECRET)) == 1


def test_a_pod_that_waits_for_something_else_does_not_have_it_applied_over_and_over(run):
    run.now += 60
    begin_a_pod(run)
    run.writes()
    for _ in range(60):
        run.now += 1
        run.queue.add(Key("default", "chat"))
        run.work()
    assert applies_of_the_secret(run) == 2


def test_pods_that_start_as_they_should_have_it_applied_no_more(run):
    run.now += 60
    run.writes()
    run.settle()
    assert applies_of_the_secret(run) == 0
