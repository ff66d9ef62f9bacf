"""What people who come from KServe, llm-d or LeaderWorkerSet look for on their first day, and where it ends up."""

from __future__ import annotations

from typing import Any

import pytest

from penstock_operator.desired.build import build_children
from penstock_operator.errors import SpecError
from support.operator_services import PAIR, SMALL, all_manifests, build_defaults, build_service, pod_specs

HUB = {"source": "hf://org/private", "credentialsSecret": "hub-token"}
SHARED = HUB | {"cache": {"type": "Shared", "size": "50Gi"}}


def pods(spec: dict[str, Any]) -> dict[str, Any]:
    """Specs of all pods of the service `chat`, by role; `model` is the download."""
    found = pod_specs(build_children(build_service(spec), build_defaults()))
    return {
        name.removeprefix("chat-").rpartition("-")[0] or name.removeprefix("chat-"): one for name, one in found.items()
    }


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in pod["containers"][0]["env"]}


def test_a_gated_model_is_opened_with_the_users_secret_which_only_who_fetches_gets():
    token = {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}
    own = pods(PAIR | {"model": HUB})
    assert {name: variables(pod).get("HF_TOKEN") for name, pod in own.items()} == {
        "prefill": token,
        "decode": token,
        "router": None,
    }
    shared = pods(SMALL | {"model": SHARED})
    assert {name: variables(pod).get("HF_TOKEN") for name, pod in shared.items()} == {
        "both": None,
        "router": None,
        "model": token,
    }


def test_every_pod_may_pull_from_the_users_registry_and_has_the_users_account():
    runtime = {"imagePullSecrets": ["registry"], "serviceAccountName": "inference", "image": "registry.example/p:1"}
    found = pods(PAIR | {"model": SHARED, "runtime": runtime})
    assert found.keys() == {"prefill", "decode", "router", "model"}
    for name, pod in found.items():
        assert pod["imagePullSecrets"] == [{"name": "registry"}], name
        assert pod["serviceAccountName"] == "inference", name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["containers"][0]["image"] == "registry.example/p:1", name


def test_each_role_goes_where_its_own_template_says():
    place = {
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
        "schedulerName": "gang",
    }
    found = pods(PAIR | {"decode": {"template": {"spec": place}}})
    for word, value in place.items():
        if word == "tolerations":
            assert value[0] in found["decode"][word]
            assert value[0] not in found["prefill"][word]
        else:
            assert found["decode"][word] == value
            assert found["prefill"].get(word) is None


def test_engines_have_shared_memory_that_the_user_may_enlarge():
    for name, pod in pods(PAIR).items():
        mounts = {one["mountPath"]: one["name"] for one in pod["containers"][0]["volumeMounts"]}
        volumes = {one["name"]: one for one in pod["volumes"]}
        assert ("/dev/shm" in mounts) == (name != "router")
        if name != "router":
            assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    larger = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}
    found = pods(SMALL | {"decode": {"template": {"spec": {"volumes": [larger]}}}})
    assert larger in found["both"]["volumes"]


def test_a_large_model_has_two_hours_to_load_before_liveness_counts():
    for name, pod in pods(PAIR).items():
        probe = pod["containers"][0]["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == (60 if name == "router" else 7200)


def test_a_route_names_its_gateways_listeners_and_hosts():
    parents = [{"name": "internet", "namespace": "gateways", "sectionName": "https"}, {"name": "inside"}]
    gateway = {"parents": parents, "hostnames": ["llm.example.com"]}
    children = build_children(build_service(SMALL | {"router": {"gateway": gateway}}), build_defaults())
    [route] = [one for one in all_manifests(children) if one["kind"] == "HTTPRoute"]
    assert route["spec"]["parentRefs"] == parents
    assert route["spec"]["hostnames"] == ["llm.example.com"]
    [rule] = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "chat", "port": 80}]
    assert rule["timeouts"] == {"request": "0s"}, "a Gateway's own timeout would cut long streams"


def test_rdma_is_a_device_of_the_pods_that_move_blocks_and_locks_memory_there():
    found = pods(PAIR | {"connector": {"type": "nixl", "rdma": "rdma/hca"}})
    added = {name: pod["containers"][0]["securityContext"]["capabilities"].get("add") for name, pod in found.items()}
    assert added == {"prefill": ["IPC_LOCK"], "decode": ["IPC_LOCK"], "router": None}
    assert found["decode"]["containers"][0]["resources"]["limits"] == {"rdma/hca": "1"}


@pytest.mark.parametrize(
    ("gpus", "engine", "size"),
    [
        (8, {"tensorParallel": 8}, 1),
        (8, {"tensorParallel": 8, "pipelineParallel": 2}, 2),
        (4, {"tensorParallel": 16}, 4),
        (1, {"pipelineParallel": 2}, 2),
        (None, {"tensorParallel": 2}, 1),
        (2, {"args": ["--max-num-seqs=8"]}, 1),
    ],
)
def test_a_replica_is_as_many_pods_as_its_workers_need_accelerators_for(gpus, engine, size):
    resources = {"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}
    children = build_children(build_service(SMALL | {"engine": engine, "decode": resources}), build_defaults())
    manifest = children.workloads[0].manifest
    assert manifest["kind"] == ("Deployment" if size == 1 else "LeaderWorkerSet")
    assert manifest["spec"].get("leaderWorkerTemplate", {"size": 1})["size"] == size


def test_whichever_pod_of_a_group_goes_counts_for_the_budget_of_evictions():
    spec = SMALL | {"engine": {"tensorParallel": 2}, "decode": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    children = build_children(build_service(spec), build_defaults())
    [budget] = [
        one for one in children.applied if one["metadata"]["name"] == "chat-both" and "maxUnavailable" in one["spec"]
    ]
    [roles] = budget["spec"]["selector"]["matchExpressions"]
    groups = children.workloads[0].manifest["spec"]["leaderWorkerTemplate"]
    labels = [groups[word]["metadata"]["labels"] for word in ("leaderTemplate", "workerTemplate")]
    assert [each[roles["key"]] for each in labels] == roles["values"]
    for each in labels:
        assert budget["spec"]["selector"]["matchLabels"].items() <= each.items()


def test_a_group_stays_in_one_rack_where_its_template_says_so():
    note = {"leaderworkerset.sigs.k8s.io/exclusive-topology": "example.com/rack"}
    role = {
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "template": {"metadata": {"annotations": note | {"a": "b"}}},
    }
    children = build_children(
        build_service(SMALL | {"engine": {"tensorParallel": 2}, "decode": role}), build_defaults()
    )
    annotations = children.workloads[0].manifest["metadata"]["annotations"]
    assert annotations.items() >= note.items()
    assert "a" not in annotations


@pytest.mark.parametrize("flag", ["-tp", "-pp=2", "--tensor-parallel-size=2", "--nnodes", "--node-rank=1"])
def test_flags_of_parallelism_have_fields_of_their_own(flag):
    with pytest.raises(SpecError, match=r"spec\.engine\.args\[0\]: \S+ does not belong here: "):
        build_children(build_service(SMALL | {"engine": {"args": [flag]}}), build_defaults())


@pytest.mark.parametrize(
    ("gpus", "engine", "offered"),
    [
        (3, {"tensorParallel": 8}, "ask for 1, 2, 4 or 8"),
        (8, {"tensorParallel": 4}, "ask for 1, 2 or 4"),
        (8, {"tensorParallel": 6, "pipelineParallel": 2}, "ask for 1, 2, 3, 4, 6 or 12"),
        (2, {"tensorParallel": 1}, "ask for 1"),
    ],
)
def test_accelerators_that_no_worker_would_use_are_refused_with_numbers_that_fit(gpus, engine, offered):
    prefill = {"resources": {"limits": {"nvidia.com/gpu": gpus}}}
    with pytest.raises(SpecError, match=rf"spec\.prefill\.resources: each pod asks for {gpus} .*{offered}$") as caught:
        build_children(build_service(PAIR | {"engine": engine, "prefill": prefill}), build_defaults())
    assert caught.value.reason == "InvalidSpec"


def test_a_long_name_is_refused_where_groups_make_longer_ones_of_it():
    spec = SMALL | {"engine": {"tensorParallel": 2}, "decode": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    build_children(build_service(spec, name="a" * 31), build_defaults())
    with pytest.raises(SpecError, match=r"metadata\.name: .* at most 31 characters"):
        build_children(build_service(spec, name="a" * 32), build_defaults())
