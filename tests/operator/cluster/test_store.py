from __future__ import annotations

import pytest

from penstock_operator.cluster.store import Store, fingerprint_of
from penstock_operator.kinds import AUTOSCALER, DEPLOYMENT, INFERENCE_SERVICE, POD, ROLE_SCALER, SERVICE
from penstock_operator.names import Key

CHAT = Key("default", "chat")


def thing(name: str, version: int, *, uid: str = "", service: str | None = "chat", **rest) -> dict:
    labels = {} if service is None else {"penstock.dev/service": service}
    metadata = {"name": name, "namespace": "default", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    metadata |= {"labels": labels, **rest.pop("metadata", {})}
    return {"metadata": metadata, **rest}


@pytest.fixture
def store():
    store = Store()
    store.put(INFERENCE_SERVICE, thing("chat", 1, service=None, spec={"model": {}}))
    return store


def test_news_name_the_service_that_they_are_about(store):
    assert store.services() == [CHAT]
    assert store.put(POD, thing("p", 2)) == CHAT
    assert store.put(POD, thing("stranger", 3, service=None)) is None
    assert list(store.children(CHAT)) == [(POD, "p")]


def test_older_news_and_the_same_again_change_nothing(store):
    assert store.put(POD, thing("p", 5, status={"phase": "Running"})) == CHAT
    assert store.put(POD, thing("p", 5, status={"phase": "Running"})) is None
    assert store.put(POD, thing("p", 4, status={"phase": "Pending"})) is None
    assert store.children(CHAT)[POD, "p"]["status"] == {"phase": "Running"}


def test_a_deletion_of_an_older_object_of_the_same_name_is_not_one_of_the_newer(store):
    store.put(POD, thing("p", 5, uid="new"))
    assert store.remove(POD, thing("p", 6, uid="old")) is None
    assert (POD, "p") in store.children(CHAT)
    assert store.remove(POD, thing("p", 7, uid="new")) == CHAT
    assert store.children(CHAT) == {}
    assert store.remove(POD, thing("p", 7, uid="new")) is None


def test_services_of_another_class_are_left_out():
    store = Store("gpu")
    mine = {"annotations": {"penstock.dev/operator-class": "gpu"}}
    assert store.put(INFERENCE_SERVICE, thing("a", 1, service=None)) is None
    assert store.put(INFERENCE_SERVICE, thing("b", 2, service=None, metadata=mine)) == Key("default", "b")
    assert store.services() == [Key("default", "b")]


def test_autoscalers_of_others_belong_to_the_service_whose_role_they_scale(store):
    target = {"apiVersion": "penstock.dev/v1alpha1", "kind": "RoleScaler", "name": "chat-decode"}
    assert store.put(AUTOSCALER, thing("hpa", 2, service=None, spec={"scaleTargetRef": target})) == CHAT
    assert store.put(AUTOSCALER, thing("web", 3, service=None, spec={"scaleTargetRef": {"kind": "Deployment"}})) is None


def test_only_what_is_looked_at_is_kept(store):
    long = {"managedFields": [{"manager": "kubectl"}]}
    store.put(DEPLOYMENT, thing("d", 2, metadata=long, spec={"replicas": 3, "template": {}}, status={"replicas": 3}))
    store.put(SERVICE, thing("s", 3, spec={"clusterIP": "10.0.0.1"}))
    store.put(ROLE_SCALER, thing("r", 4, spec={"replicas": 2, "role": "both"}))
    children = store.children(CHAT)
    assert children[DEPLOYMENT, "d"]["spec"] == {"replicas": 3}
    assert children[DEPLOYMENT, "d"]["kind"] == "Deployment"
    assert "managedFields" not in children[DEPLOYMENT, "d"]["metadata"]
    assert children[SERVICE, "s"]["spec"] == {}
    assert children[ROLE_SCALER, "r"]["spec"] == {"replicas": 2, "role": "both"}


def test_a_fingerprint_shows_changes_by_others_and_no_new_status():
    one = thing("d", 2, spec={"replicas": 3, "template": {"x": 1}}, status={"replicas": 3})
    assert fingerprint_of(one) == fingerprint_of(one | thing("d", 9, spec=one["spec"], status={"replicas": 0}))
    assert fingerprint_of(one) != fingerprint_of({**one, "spec": {"replicas": 3, "template": {"x": 2}}})
    relabelled = {**one, "metadata": {**one["metadata"], "labels": {}}}
    assert fingerprint_of(one) != fingerprint_of(relabelled)


def test_a_list_adds_what_was_missed_and_removes_what_is_gone(store):
    store.put(POD, thing("stays", 2))
    store.put(POD, thing("gone", 3))
    store.put(POD, thing("newer-than-the-list", 30))
    found = store.replace(POD, None, [thing("stays", 2), thing("missed", 9)], "20")
    assert found.keys == (CHAT,)
    assert found.num_missed == 1, "deletions are no sign of a silent watch: after a cut no watch tells them"
    assert {name for _, name in store.children(CHAT)} == {"stays", "missed", "newer-than-the-list"}
    again = store.replace(POD, None, [thing("stays", 2), thing("missed", 9), thing("newer-than-the-list", 30)], "31")
    assert (again.keys, again.num_missed) == ((), 0)


def test_a_list_that_is_older_than_a_deletion_brings_nothing_back(store):
    store.put(POD, thing("p", 2))
    store.remove(POD, thing("p", 10))
    store.replace(POD, None, [thing("p", 2)], "9")
    assert store.children(CHAT) == {}


def test_the_answer_to_a_write_that_comes_after_the_news_of_the_end_brings_nothing_back(store):
    store.remove(POD, thing("p", 10))
    assert store.put(POD, thing("p", 9)) is None
    assert store.children(CHAT) == {}


def test_what_lost_our_label_and_got_it_back_is_seen_again(store):
    """A watch that selects by label tells of the first as of a deletion."""
    store.put(POD, thing("p", 2))
    store.remove(POD, thing("p", 5))
    assert store.put(POD, thing("p", 7)) == CHAT
    assert (POD, "p") in store.children(CHAT)


def test_a_list_of_one_namespace_leaves_the_others_alone(store):
    other = thing("p", 2)
    other["metadata"]["namespace"] = "team"
    store.put(POD, other)
    store.replace(POD, "default", [], "20")
    assert (POD, "p") in store.children(Key("team", "chat"))
    store.replace(POD, "team", [], "20")
    assert store.children(Key("team", "chat")) == {}


def test_a_service_that_is_gone_is_noticed_by_a_list(store):
    found = store.replace(INFERENCE_SERVICE, None, [], "20")
    assert found.keys == (CHAT,)
    assert store.services() == []
    assert store.service(CHAT) is None


def test_our_own_scaling_is_seen_before_the_watch_tells_it(store):
    store.put(DEPLOYMENT, thing("d", 2, metadata={"generation": 1}, spec={"replicas": 1}))
    store.scaled(CHAT, (DEPLOYMENT, "d"), 4, "7")
    seen = store.children(CHAT)[DEPLOYMENT, "d"]
    assert (seen["spec"], seen["metadata"]["generation"]) == ({"replicas": 4}, 2)
    store.put(DEPLOYMENT, thing("d", 8, metadata={"generation": 2}, spec={"replicas": 4}))
    store.scaled(CHAT, (DEPLOYMENT, "d"), 4, "7")
    assert store.children(CHAT)[DEPLOYMENT, "d"]["metadata"]["resourceVersion"] == "8"
