"""The API server of the other tests has to behave like a real one where they rely on it."""

from __future__ import annotations

import pytest

from penstock_operator.errors import ApiError
from penstock_operator.kinds import DEPLOYMENT, POD, SECRET
from support.memory_api import MemoryApi


def deployment(**spec) -> dict:
    metadata = {"name": "d", "namespace": "default", "labels": {"a": "1"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


@pytest.fixture
def api():
    return MemoryApi()


def test_an_apply_that_changes_nothing_makes_no_new_version(api):
    one = api.apply(deployment(paused=True))
    two = api.apply(deployment(paused=True))
    assert one["metadata"]["resourceVersion"] == two["metadata"]["resourceVersion"]
    three = api.apply(deployment(paused=False))
    assert (three["metadata"]["generation"], three["metadata"]["uid"]) == (2, one["metadata"]["uid"])


def test_a_field_that_is_no_longer_applied_goes_unless_somebody_else_owns_it(api):
    api.apply(deployment(replicas=2, paused=True))
    assert api.apply(deployment(paused=True))["spec"] == {"paused": True}
    api.apply(deployment(replicas=2, paused=True))
    api.scale(DEPLOYMENT, "default", "d", 5)
    assert api.apply(deployment(paused=True))["spec"] == {"paused": True, "replicas": 5}
    assert api.apply(deployment(paused=True), manager="another")["spec"]["replicas"] == 5


def test_lists_of_named_things_merge_by_name(api):
    ports = [{"name": "http", "port": 80}, {"name": "internal", "port": 81}]
    api.apply(deployment(ports=ports))
    api.update(DEPLOYMENT, "default", "d", {"metadata": {"labels": {"theirs": "2"}}})
    api.apply(deployment(ports=[{"name": "extra", "port": 9}]), manager="another")
    there = api.apply(deployment(ports=ports[:1]))
    assert there["spec"]["ports"] == [{"name": "http", "port": 80}, {"name": "extra", "port": 9}]
    assert there["metadata"]["labels"] == {"a": "1", "theirs": "2"}


def test_preconditions_and_missing_objects(api):
    with pytest.raises(ApiError) as caught:
        api.get(DEPLOYMENT, "default", "d")
    assert caught.value.status == 404
    uid = api.create(deployment())["metadata"]["uid"]
    for call in (
        lambda: api.create(deployment()),
        lambda: api.delete(DEPLOYMENT, "default", "d", uid="another"),
        lambda: api.apply({**deployment(), "metadata": {**deployment()["metadata"], "uid": "another"}}),
        lambda: api.merge(DEPLOYMENT, "default", "d", {"metadata": {"uid": "another"}}),
        lambda: api.replace({**deployment(), "metadata": {**deployment()["metadata"], "resourceVersion": "0"}}),
    ):
        with pytest.raises(ApiError) as caught:
            call()
        assert caught.value.status == 409
    api.delete(DEPLOYMENT, "default", "d", uid=uid)
    api.delete(DEPLOYMENT, "default", "d", uid=uid)
    assert api.find(DEPLOYMENT, "d") is None


def test_what_is_owned_goes_with_its_owner_and_watches_hear_of_it(api):
    heard = []
    api.watchers.append(lambda what, kind, manifest: heard.append((what, kind.kind)))
    owner = api.create(deployment())["metadata"]["uid"]
    references = [{"kind": "Deployment", "name": "d", "uid": owner, "controller": True}]
    metadata = {"name": "p", "namespace": "default", "ownerReferences": references}
    api.post({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})
    api.delete(DEPLOYMENT, "default", "d", uid=owner)
    assert heard == [("ADDED", "Deployment"), ("ADDED", "Pod"), ("DELETED", "Deployment"), ("DELETED", "Pod")]
    assert api.all(POD) == []


def test_a_list_selects_by_label_and_a_server_that_is_away_answers_nothing(api):
    api.create(deployment())
    assert [one["metadata"]["name"] for one in api.list(DEPLOYMENT, None, "a=1")[0]] == ["d"]
    assert api.list(DEPLOYMENT, None, "a=2")[0] == []
    assert api.list(DEPLOYMENT, "team")[0] == []
    api.is_away = True
    with pytest.raises(ApiError) as caught:
        api.list(SECRET)
    assert caught.value.status == 0
