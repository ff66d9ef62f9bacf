"""Nothing is applied twice in vain, whatever others change is put right, and nothing of theirs is taken over."""

from __future__ import annotations

import pytest

from penstock_operator.kinds import ROLE_SCALER, SERVICE
from support.operator_run import OperatorRun

UNREAD = ("apply", "Secret")  # there is no right to read it, so each process applies it once


def applied(run: OperatorRun) -> list[tuple[str, str]]:
    """What was written but for statuses."""
    return [(verb, kind) for verb, kind, _ in run.writes() if verb != "apply_status"]


@pytest.fixture
def run() -> OperatorRun:
    run = OperatorRun()
    run.create()
    run.settle()
    assert run.writes()
    return run


def test_another_process_of_the_operator_finds_everything_as_it_was_left(run):
    run.restart()
    run.settle()
    assert applied(run) == [UNREAD]


CHANGES = {
    "another port": {"spec": {"ports": [{"name": "http", "port": 81, "targetPort": 8000}]}},
    "a selector that selects nothing": {"spec": {"selector": {"more": "than-we-said"}}},
    "a label less": {"metadata": {"labels": {"app.kubernetes.io/name": None}}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_somebody_changed_while_no_operator_ran_is_put_right(run, change):
    run.api.update(SERVICE, "default", "chat", CHANGES[change])
    run.restart()
    run.settle()
    assert sorted(applied(run)) == [UNREAD, ("apply", "Service")]
    there = run.api.find(SERVICE, "chat")
    assert there["spec"]["ports"][0]["port"] == 80
    assert "app.kubernetes.io/name" in there["metadata"]["labels"]


def test_what_the_spec_changed_while_no_operator_ran_is_applied(run):
    (key,) = run.store.services()
    run.edit(key, {"router": {"service": {"port": 8080}}})
    run.restart()
    run.settle()
    assert ("apply", "Service") in applied(run)
    assert run.api.find(SERVICE, "chat")["spec"]["ports"][0]["port"] == 8080


def test_status_and_size_are_no_changes(run):
    run.api.update(SERVICE, "default", "chat", {"status": {"loadBalancer": {}}})
    run.api.scale(ROLE_SCALER, "default", "chat-both", 3)
    run.restart()
    run.settle()
    assert {kind for verb, kind in applied(run) if verb == "apply"} == {"Secret"}


@pytest.mark.parametrize("spec", [{"selector": {"app": "web"}}, {}], ids=["another-value", "nothing-in-common"])
def test_what_somebody_makes_just_after_we_looked_is_not_taken_over(spec):
    run = OperatorRun()
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "default"}}
    foreign["spec"] = {"sessionAffinity": "None", **spec}

    def make(verb: str, kind: object, name: str) -> None:
        if (verb, kind, name) == ("apply", SERVICE, "chat") and run.api.find(SERVICE, "chat") is None:
            run.api.post(foreign)

    run.api.refuse = make
    key = run.create()
    run.settle()
    there = run.api.find(SERVICE, "chat")
    assert there["spec"] == foreign["spec"]
    assert not {"labels", "annotations", "ownerReferences"} & there["metadata"].keys()
    assert run.condition(key, "Stalled")["status"] == "True"
