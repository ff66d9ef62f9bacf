"""The download into a shared volume, and what waits for it."""

from __future__ import annotations

import random

import pytest

from penstock_operator import kinds
from support.small_cluster import SmallCluster
from support.small_operator import SmallOperator

SHARED = {"type": "Shared", "size": "5Gi"}
MODEL = {"source": "hf://org/name", "cache": SHARED}


@pytest.fixture
def operator() -> SmallOperator:
    """A service that serves from its shared volume."""
    one = SmallOperator(SmallCluster(random.Random(4)), {"model": MODEL, "decode": {"replicas": 2}})
    one.turn()
    finish(one)
    one.settle()
    return one


def jobs(operator: SmallOperator) -> list[str]:
    return [name for kind, name in operator.cluster.objects if kind == kinds.JOB]


def finish(operator: SmallOperator) -> None:
    """The download is over."""
    [name] = jobs(operator)
    operator.cluster.objects[kinds.JOB, name]["status"] = {"succeeded": 1}


def start(operator: SmallOperator, **status) -> None:
    [name] = jobs(operator)
    operator.cluster.objects[kinds.JOB, name]["status"] = {"active": 1, **status}


def revisions(operator: SmallOperator) -> set[str]:
    """That have pods, or want some."""
    wanted = operator.cluster.wanted()
    return {name for name, count in wanted.items() if count and "-both-" in name}


def test_the_first_pods_start_while_the_model_is_fetched():
    operator = SmallOperator(SmallCluster(random.Random(4)), {"model": MODEL, "decode": {"replicas": 2}})
    operator.turn()
    assert revisions(operator)
    assert operator.status["model"] == {"phase": "Pending"}


def test_pods_of_another_model_wait_until_it_is_there_and_the_old_ones_serve(operator):
    [old_job], before = jobs(operator), revisions(operator)
    operator.change(model={**MODEL, "source": "hf://org/other"})
    for _ in range(20):
        operator.turn()
        operator.cluster.tick()
        assert revisions(operator) == before
        assert operator.condition("Ready")["status"] == "True"
    assert operator.condition("Reconciling")["reason"] == "WaitingForModel"
    assert old_job not in jobs(operator)
    finish(operator)
    operator.settle()
    assert not revisions(operator) & before


def test_who_serves_nobody_is_replaced_at_once():
    operator = SmallOperator(SmallCluster(random.Random(4)), {"model": MODEL, "decode": {"replicas": 2}})
    operator.cluster.is_bad = lambda revision: True
    operator.turn()
    before = revisions(operator)
    operator.change(model={**MODEL, "credentialsSecret": "token"})
    for _ in range(20):
        operator.turn()
        operator.cluster.tick()
    assert revisions(operator) - before


def test_the_number_of_pods_follows_its_users_while_a_model_is_fetched(operator):
    before = revisions(operator)
    operator.change(model={**MODEL, "source": "hf://org/other"}, decode={"replicas": 4})
    for _ in range(30):
        operator.turn()
        operator.cluster.tick()
    assert revisions(operator) == before
    assert sum(count for name, count in operator.cluster.wanted().items() if name in before) == 4


def test_a_change_that_needs_no_other_download_waits_for_none(operator):
    [job] = jobs(operator)
    operator.change(decode={"replicas": 2, "resources": {"limits": {"cpu": 2}}}, rollout={"restartedAt": "1"})
    operator.settle()
    assert jobs(operator) == [job]


def test_a_job_that_was_deleted_is_made_again_only_if_nobody_has_loaded_the_model(operator):
    [job] = jobs(operator)
    del operator.cluster.objects[kinds.JOB, job]
    operator.run(3)
    assert jobs(operator) == []
    assert operator.condition("ModelReady")["status"] == "True"
    assert operator.status["model"]["phase"] == "Ready"
    operator.change(decode={"replicas": 0})
    operator.run(40)
    assert jobs(operator) == [job]


def test_a_job_goes_when_pods_fetch_for_themselves(operator):
    operator.change(model={"source": "hf://org/name"})
    operator.turn()
    assert jobs(operator) == []
    operator.settle()
