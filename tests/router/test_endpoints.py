"""Which pods belong to a service, and what their states are."""

from __future__ import annotations

import msgspec
import pytest

from penstock.bench.scripted_pod import Script, ScriptedPod
from penstock.internal.credentials import ClusterKeys
from penstock.router.endpoint import State
from penstock.router.endpoints import EndpointTable
from penstock.router.ledger import Ledger


class Pods:
    """A table, and loads for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.table = EndpointTable(ClusterKeys(None), Ledger(), clock=lambda: self.now)

    def list(self, *places: str) -> None:
        self.table.list_only([tuple(place.split("@")) for place in places])

    def tell(self, address: str, **values) -> None:
        changes = {name: values.pop(name) for name in ("ready", "draining", "stalled") if name in values}
        load = msgspec.structs.replace(ScriptedPod(Script(**{"name": address} | values)).load(), **changes)
        self.table[address].take_load(load, began=self.now, now=self.now, num_own=0)
        self.table.settle()

    def state(self, address: str) -> State:
        return self.table[address].state


@pytest.fixture
def pods():
    made = Pods()
    made.list("decode@a:1", "decode@b:1", "decode@c:1", "prefill@p:1")
    return made


def test_a_pod_is_down_until_it_says_that_it_is_ready(pods):
    assert pods.state("a:1") is State.DOWN
    pods.tell("a:1", ready=False)
    assert pods.state("a:1") is State.LOADING
    pods.tell("a:1")
    assert pods.state("a:1") is State.READY
    assert [one.address for one in pods.table.candidates()] == ["a:1"]
    pods.tell("a:1", draining=True)
    assert pods.state("a:1") is State.DRAINING
    assert not pods.table.is_up


def test_one_missed_answer_is_not_the_end_but_a_second_or_a_refused_connection_is(pods):
    pods.tell("a:1")
    pods.table["a:1"].take_failure("slow")
    assert pods.state("a:1") is State.READY
    pods.table["a:1"].take_failure("slow")
    assert pods.state("a:1") is State.DOWN
    pods.tell("a:1")
    pods.table["a:1"].take_failure("nobody there", is_certain=True)
    assert pods.state("a:1") is State.DOWN


def test_an_engine_that_makes_no_steps_is_down(pods):
    pods.tell("a:1", stalled=20.5)
    assert pods.state("a:1") is State.DOWN
    assert "no steps" in pods.table["a:1"].describe().why


def test_the_model_that_most_serve_is_the_right_one(pods, caplog):
    pods.tell("a:1", model="other")
    assert pods.state("a:1") is State.READY
    pods.tell("b:1")
    pods.tell("c:1")
    assert [pods.state(f"{name}:1") for name in "abc"] == [State.REFUSED, State.READY, State.READY]
    assert "serves 'other', but the others serve 'scripted'" in pods.table["a:1"].why
    pods.tell("a:1")
    assert pods.state("a:1") is State.READY


def test_a_prefill_pod_of_another_model_is_refused(pods):
    pods.tell("a:1")
    pods.tell("b:1")
    pods.tell("p:1", role="prefill", model="other")
    assert pods.state("p:1") is State.REFUSED


def test_a_name_belongs_to_one_pod(pods):
    pods.tell("a:1", name="same")
    pods.tell("b:1", name="same")
    assert [pods.state("a:1"), pods.state("b:1")] == [State.READY, State.REFUSED]
    assert "has the name 'same', which the pod at a:1 has already" in pods.table["b:1"].why
    pods.table["a:1"].take_failure("gone", is_certain=True)
    pods.table.settle()
    assert pods.state("b:1") is State.READY


def test_weights_may_differ_between_revisions_only(pods):
    pods.tell("a:1", fingerprint="x")
    pods.tell("b:1", fingerprint="x")
    pods.tell("c:1", fingerprint="y")
    assert pods.state("c:1") is State.REFUSED
    pods.tell("c:1", fingerprint="y", revision="2")
    assert pods.state("c:1") is State.READY


def test_a_pod_listed_under_the_wrong_role_is_refused(pods):
    pods.tell("a:1", role="prefill")
    assert "has the role prefill, but is listed under --decode" in pods.table["a:1"].why
    pods.tell("p:1", role="both")
    assert pods.state("p:1") is State.REFUSED


def test_a_wrong_key_is_told_once_and_forgotten_when_it_fits(pods, caplog):
    caplog.set_level("INFO", "penstock")
    for _ in range(3):
        pods.table["a:1"].take_refusal("does not accept our key")
        pods.table.settle()
    assert [record.getMessage() for record in caplog.records if "refused" in record.getMessage()] == [
        "endpoint.refused address=a:1 role=decode why='does not accept our key'"
    ]
    pods.tell("a:1")
    assert pods.state("a:1") is State.READY


def test_a_pod_that_is_not_listed_any_more_takes_nothing_new_and_goes_when_it_is_idle(pods):
    pods.tell("a:1")
    call = object()
    pods.table["a:1"].calls.add(call)
    pods.list("decode@b:1")
    assert pods.state("a:1") is State.DRAINING
    assert len(pods.table) == 2
    pods.table["a:1"].calls.discard(call)
    pods.list("decode@b:1")
    assert [one.address for one in pods.table] == ["b:1"]


def test_what_a_pod_of_a_dead_machine_had_is_not_shown(pods):
    pods.tell("a:1")
    pods.table["a:1"].take_failure("gone", is_certain=True)
    shown = pods.table["a:1"].describe()
    assert (shown.state, shown.name, shown.why, shown.running) == ("down", "a:1", "gone", 0)
