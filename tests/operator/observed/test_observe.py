"""What counts as ours, and what is made of it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import Resources, Role
from penstock_operator.desired.replica_shape import gpus_of
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import LOST_SECONDS, LoadSeen
from support.small_cluster import SmallCluster
from support.small_operator import SmallOperator

GPU = {"requests": {"cpu": 2, "nvidia.com/gpu": 2}, "limits": {"nvidia.com/gpu": 2}}


@pytest.fixture
def operator() -> SmallOperator:
    one = SmallOperator(SmallCluster(random.Random(5)), {"decode": {"replicas": 2, "resources": GPU}})
    one.settle()
    return one


def seen(operator: SmallOperator, changes=()):
    objects = {**operator.cluster.view(), **dict(changes)}
    return observe(operator.service, objects, {}, operator.cluster.now)


def a_pod(operator: SmallOperator, role="both"):
    name = next(pod.name for pod in seen(operator).pods if pod.role == role)
    return name, operator.cluster.view()[kinds.POD, name]


def test_pods_belong_to_whom_their_replica_set_belongs(operator):
    assert sorted(pod.role for pod in seen(operator).pods) == ["both", "both", "router"]


def test_a_stranger_with_our_labels_is_no_pod_of_ours(operator):
    name, manifest = a_pod(operator)
    labels = names.role_labels("chat", "both")
    for owners in ([], [{"kind": "ReplicaSet", "name": "other-5d9c", "controller": True, "uid": "x"}]):
        stranger = {**manifest, "metadata": {**manifest["metadata"], "labels": labels, "ownerReferences": owners}}
        assert name not in {pod.name for pod in seen(operator, {(kinds.POD, name): stranger}).pods}


def test_an_object_of_another_owner_is_foreign_even_with_our_labels(operator):
    key = (kinds.SERVICE, "chat-both")
    theirs = operator.cluster.objects[key]
    metadata = {**theirs["metadata"], "ownerReferences": [{"kind": "X", "name": "x", "uid": "x", "controller": True}]}
    observed = seen(operator, {key: {**theirs, "metadata": metadata}})
    assert observed.foreign == (key,)
    assert key not in observed.children


def test_children_of_a_namesake_that_was_deleted_are_foreign(operator):
    again = dataclasses.replace(operator.service, uid="u-2")
    observed = observe(again, operator.cluster.view(), {}, operator.cluster.now)
    assert (observed.children, observed.pods, observed.workloads) == ({}, (), ())
    assert (kinds.DEPLOYMENT, "chat-router") in observed.foreign
    assert observed.orphans == set(observed.foreign)
    assert seen(operator).orphans == frozenset()


def test_gpus_are_counted_once_though_requests_and_limits_name_them(operator):
    assert seen(operator).gpus_per_pod == {"both": 2}


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"nvidia.com/gpu": "4"}, 4),
        ({"amd.com/gpu": 1, "memory": "8Gi"}, 1),
        ({"nvidia.com/mig-3g.40gb": 2}, 2),
        ({"cpu": "4"}, 0),
    ],
)
def test_what_counts_as_a_gpu(limits, count):
    assert gpus_of(Role(resources=Resources(limits=limits))) == count


def test_annotations_that_are_nonsense_count_as_none(operator):
    name, manifest = a_pod(operator)
    marks = {names.DRAINED: "yesterday", names.DELETION_COST: "much"}
    odd = {**manifest, "metadata": {**manifest["metadata"], "annotations": marks}}
    pod = next(pod for pod in seen(operator, {(kinds.POD, name): odd}).pods if pod.name == name)
    assert (pod.drained_since, pod.deletion_cost) == (None, 0)


def test_a_pod_is_lost_when_it_outlives_its_grace(operator):
    name, manifest = a_pod(operator)
    leaving = {**manifest, "metadata": {**manifest["metadata"], "deletionTimestamp": "2026-01-31T08:00:00Z"}}
    pod = next(pod for pod in seen(operator, {(kinds.POD, name): leaving}).pods if pod.name == name)
    assert pod.is_leaving
    assert not pod.is_lost(pod.leaves_by + LOST_SECONDS)
    assert pod.is_lost(pod.leaves_by + LOST_SECONDS + 1)


def test_an_evicted_pod_is_none_since_another_one_is_there(operator):
    name, manifest = a_pod(operator)
    evicted = {**manifest, "status": {"phase": "Failed", "reason": "Evicted"}}
    assert name not in {pod.name for pod in seen(operator, {(kinds.POD, name): evicted}).pods}


def test_writers_are_those_of_others_that_target_a_role_scaler(operator):
    def autoscaler(name, target, uid):
        metadata = {"name": name, "ownerReferences": [{"controller": True, "uid": uid}]}
        spec = {"scaleTargetRef": {"kind": "RoleScaler", "name": target}}
        return (kinds.AUTOSCALER, name), {"kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}

    others = [
        autoscaler("ours", "chat-both", "u-1"),
        autoscaler("theirs", "chat-both", "x"),
        autoscaler("elsewhere", "talk-both", "x"),
    ]
    observed = seen(operator, others)
    assert observed.scalers["both"].writers == ("HorizontalPodAutoscaler theirs",)
    assert observed.foreign == ()


def test_a_pod_that_routers_refuse_is_in_trouble_though_it_is_ready(operator):
    name, _ = a_pod(operator)
    load = LoadSeen(
        pod=name, at=0.0, running=0, waiting=0, queued_tokens=0, leases=0, kv_usage=0.0, refused="another model"
    )
    observed = observe(operator.service, operator.cluster.view(), {name: load}, operator.cluster.now)
    pod = next(pod for pod in observed.pods if pod.name == name)
    assert (pod.is_ready, pod.trouble.reason) == (True, "HandshakeRefused")
    assert "another model" in pod.trouble.message
