"""Where models come from, in real pods: a hub that wants a token, and a volume that one download fills for all pods.

The hub is a pod of ours. Tests of the shared volume have one service and go in this order.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.hub import TOKEN, Hub
from support.kube_cluster import wait_until
from support.served import READY_SECONDS, Served

SLOW = 6e6  # bytes a second: the model takes a quarter of a minute
ENGINE = {"dtype": "float32", "kvCacheMemory": "128Mi", "maxModelLen": 512, "args": ["--threads=1"]}
SHARED = {"type": "Shared", "size": "1Gi"}
SECRET = "hub-token"
SOON = 60.0  # seconds


@pytest.fixture(scope="module")
def space(cluster, operator) -> Iterator[str]:
    """A namespace where only restricted pods may run."""
    name = f"models-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def hub(cluster, space, runtime_image) -> Hub:
    return Hub(cluster, space, runtime_image)


@pytest.fixture(scope="module")
def folder(request) -> Iterator[Path]:
    """A folder of the nodes that anybody may write."""
    if request.config.getoption("--cluster") != "local":
        pytest.skip("the folders of the nodes are not on this machine")
    with tempfile.TemporaryDirectory(prefix="penstock-volume-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def small_folder(folder) -> Iterator[Path]:
    """One with too little room for the model."""
    place = folder / "small"
    place.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=30m,mode=0777", "tmpfs", place), check=True)
    yield place
    subprocess.run(("umount", "--lazy", place), check=True)


@contextmanager
def volume(cluster, namespace: str, service: str, place: Path) -> Iterator[None]:
    """That folder is the volume for the claim of a service."""
    name = f"{namespace}-{service}"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": str(place), "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": f"{service}-model"},
    }
    cluster.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    yield
    cluster.kubectl("delete", "persistentvolume", name, "--wait=false")


def create(cluster, hub: Hub, name: str, model: dict[str, Any]) -> Served:
    spec = {
        "model": {"servedName": "m", **model},
        "engine": ENGINE,
        "router": {"enabled": False},
        "runtime": {"env": [{"name": "HF_ENDPOINT", "value": hub.endpoint}]},
    }
    metadata = {"name": name, "namespace": hub.namespace}
    cluster.apply(
        {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
    )
    return Served(cluster, hub.namespace, name)


def wait_for(served: Served, kind: str, reason: str, seconds: float = SOON) -> str:
    """The message of a condition, once it has this reason."""
    wait_until(lambda: served.condition(kind).get("reason") == reason, seconds, served.story)
    message = served.condition(kind)["message"]
    tell(served.name, kind, reason, message)
    return message


def tell(*words: object) -> None:
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def chat(served: Served) -> str:
    """What the model says; the real one says something."""
    question = {"role": "user", "content": "What is the capital of France?"}
    body = {"model": "m", "messages": [question], "max_tokens": 12, "temperature": 0}
    with served.cluster.reach(served.namespace, served.name) as url:
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]


def put_token(cluster, namespace: str) -> None:
    words = ("create", "secret", "generic", SECRET, "-n", namespace, f"--from-literal=HF_TOKEN={TOKEN}")
    cluster.kubectl(*words)


def jobs(served: Served) -> dict[str, str]:
    """Name -> UID."""
    found = served.cluster.items("jobs", served.namespace, "-l", f"penstock.dev/service={served.name}")
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}


def progress(served: Served) -> list[int]:
    """Bytes that had arrived, whenever the status said another number, until the model is there."""
    seen: list[int] = []

    def is_over() -> bool:
        model = served.get()["status"].get("model", {})
        done = model.get("bytesDone")
        if done is not None and done not in seen:
            seen.append(done)
            tell(served.name, model, served.condition("ModelReady")["message"])
        return model.get("phase") == "Ready"

    wait_until(is_over, READY_SECONDS, served.story)
    return seen


@pytest.fixture(scope="module")
def shared(cluster, hub, folder) -> Iterator[Served]:
    """A service whose model is in a volume, and needs a token that it has not got."""
    with volume(cluster, hub.namespace, "shared", folder):
        yield create(cluster, hub, "shared", {"source": "hf://org/private", "cache": SHARED})


def test_a_model_that_the_hub_refuses_says_what_to_set(shared):
    message = wait_for(shared, "ModelReady", "ModelAccessDenied")
    assert "(401)" in message
    assert "spec.model.credentialsSecret" in message
    assert "(401)" in wait_for(shared, "Ready", "ModelAccessDenied")
    wait_for(shared, "Stalled", "ModelAccessDenied")
    for _ in range(30):  # while it is tried again and again
        assert shared.condition("Stalled")["status"] == "True"
        time.sleep(0.5)


def test_a_secret_that_is_not_there_is_named(shared):
    shared.patch({"model": {"credentialsSecret": SECRET}})
    message = wait_for(shared, "ModelReady", "ConfigMissing")
    assert f"create secret generic {SECRET}" in message
    assert len(jobs(shared)) == 1


def test_with_the_secret_the_model_comes_and_the_status_counts_its_bytes(shared, hub):
    hub.limit(SLOW)
    before = time.monotonic()
    put_token(shared.cluster, shared.namespace)
    seen = progress(shared)
    tell("fetched after", round(time.monotonic() - before, 1), "s")
    assert len(seen) >= 3
    assert seen == sorted(seen)
    shared.wait_ready()
    tell("ready after", round(time.monotonic() - before, 1), "s:", shared.condition("ModelReady"))
    assert "Paris" in chat(shared)


def test_further_pods_load_what_is_in_the_volume(shared, hub):
    before = hub.num_bytes
    start = time.monotonic()
    shared.scale("both", 2)
    wait_until(lambda: shared.get()["status"]["roles"]["both"]["ready"] == 2, READY_SECONDS, shared.story)
    tell("second pod ready after", round(time.monotonic() - start, 1), "s; the hub sent", hub.num_bytes - before)
    assert hub.num_bytes == before
    shared.scale("both", 1)
    shared.wait_ready()


def test_a_job_that_somebody_deletes_is_not_missed_while_the_model_is_loaded(shared):
    [name] = jobs(shared)
    shared.cluster.kubectl("delete", "job", name, "-n", shared.namespace)
    shared.nudge()
    time.sleep(5)
    assert not jobs(shared)
    assert shared.condition("ModelReady")["status"] == "True"
    assert shared.get()["status"]["model"]["phase"] == "Ready"


def test_another_model_is_fetched_before_the_pods_change(shared, hub):
    old = {pod["metadata"]["uid"] for pod in shared.pods("both")}
    shared.patch({"model": {"source": "hf://org/other"}})
    message = wait_for(shared, "Reconciling", "WaitingForModel")
    assert "serves" in message
    [(name, uid)] = jobs(shared).items()
    shared.cluster.kubectl("delete", "job", name, "-n", shared.namespace)  # by somebody, who thus begins it anew
    wait_until(lambda: jobs(shared).get(name, uid) != uid, SOON, shared.story)
    while True:
        seen = {pod["metadata"]["uid"] for pod in shared.pods("both")}
        if shared.get()["status"]["model"]["phase"] == "Ready":
            break
        assert seen == old
        assert shared.condition("Ready")["status"] == "True"
        assert "Paris" in chat(shared)
        time.sleep(1)
    shared.wait_ready()
    assert not old & {pod["metadata"]["uid"] for pod in shared.pods("both")}
    assert len(jobs(shared)) == 1
    assert "Paris" in chat(shared)


def test_a_revision_that_is_not_there_leaves_the_old_one_serving(shared, hub):
    hub.limit(0)
    shared.patch({"model": {"revision": "nowhere"}})
    message = wait_for(shared, "ModelReady", "ModelNotFound")
    assert "no revision 'nowhere'" in message
    assert "spec.model.revision" in message
    assert shared.condition("Ready")["status"] == "True"
    shared.patch({"model": {"revision": "v1"}})
    before = hub.num_bytes
    shared.wait_ready()
    tell("of the same weights in another revision the hub sent", hub.num_bytes - before)
    assert hub.num_bytes - before < 1e6
    assert "Paris" in chat(shared)
    shared.cluster.kubectl("delete", "inferenceservice", shared.name, "-n", shared.namespace)


def test_pods_that_fetch_for_themselves_say_the_same(cluster, hub):
    hub.limit(0)
    cluster.run("kubectl", "delete", "secret", SECRET, "-n", hub.namespace)
    own = create(cluster, hub, "own", {"source": "hf://org/private"})
    message = wait_for(own, "ModelReady", "ModelAccessDenied")
    assert "(401)" in message
    assert "spec.model.credentialsSecret" in message
    put_token(cluster, hub.namespace)
    own.patch({"model": {"credentialsSecret": SECRET}})
    own.wait_ready()
    tell("own", own.condition("ModelReady"))
    assert "Paris" in chat(own)
    cluster.kubectl("delete", "inferenceservice", "own", "-n", hub.namespace)


def test_a_volume_that_is_full_says_so(cluster, hub, small_folder):
    with volume(cluster, hub.namespace, "full", small_folder):
        full = create(cluster, hub, "full", {"source": "hf://org/open", "cache": SHARED})
        message = wait_for(full, "ModelReady", "ModelCacheFull")
        assert "spec.model.cache.size" in message
        cluster.kubectl("delete", "inferenceservice", "full", "-n", hub.namespace)


def test_a_name_that_is_wrong_is_to_be_corrected(cluster, hub):
    absent = create(cluster, hub, "absent", {"source": "hf://org/absent", "credentialsSecret": SECRET})
    message = wait_for(absent, "ModelReady", "ModelNotFound")
    assert "(404)" in message
    assert "spec.model.source" in message
    cluster.kubectl("delete", "inferenceservice", "absent", "-n", hub.namespace)
