"""Root causes: what Kubernetes and the runtime say of a pod, as one word and one sentence."""

from __future__ import annotations

import pytest

from penstock_operator.observed.trouble import pod_trouble, workload_trouble
from penstock_operator.timestamps import to_timestamp

NOW = 1_700_000_000.0


def pod(*, container: dict | None = None, init: dict | None = None, age: float = 60.0, **status):
    """As the API server has it."""
    if container is not None:
        status["containerStatuses"] = [{"image": "runtime:1", **container}]
    if init is not None:
        status["initContainerStatuses"] = [{"image": "runtime:1", **init}]
    return {"metadata": {"name": "chat-0", "creationTimestamp": to_timestamp(NOW - age)}, "status": status}


def waiting(reason: str, message: str = "", /, **ended):
    state = {"state": {"waiting": {"reason": reason, "message": message}}, "restartCount": 3}
    return {**state, "lastState": {"terminated": ended}} if ended else state


def test_a_pod_that_starts_as_it_should_is_no_trouble():
    assert pod_trouble(pod(phase="Pending"), NOW) is None
    assert pod_trouble(pod(phase="Pending", container=waiting("ContainerCreating")), NOW) is None
    running = {"ready": False, "state": {"running": {}}}
    assert pod_trouble(pod(phase="Running", container=running), NOW) is None


def test_a_pod_that_crashed_once_and_serves_is_no_trouble():
    running = {"running": {"startedAt": to_timestamp(NOW - 5)}}
    now_ready = {"name": "penstock", "ready": True, "state": running, "lastState": {"terminated": {"exitCode": 1}}}
    assert pod_trouble(pod(phase="Running", container=now_ready), NOW) is None


def test_a_pod_that_fits_nowhere_says_what_the_scheduler_says():
    conditions = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    ]
    trouble = pod_trouble(pod(phase="Pending", conditions=conditions), NOW)
    assert (trouble.reason, trouble.is_terminal) == ("Unschedulable", False)
    assert trouble.message == "pod chat-0 fits on no node: 0/3 nodes are available"


@pytest.mark.parametrize(
    ("reason", "message", "is_terminal"),
    [
        ("ErrImagePull", "dial tcp: i/o timeout", False),
        ("ImagePullBackOff", "", False),
        ("ImagePullBackOff", "runtime:1: not found", True),
        ("ErrImagePull", "401 Unauthorized", True),
        ("InvalidImageName", "", True),
        ("ErrImageNeverPull", "", True),
    ],
)
def test_an_image_that_does_not_come(reason, message, is_terminal):
    trouble = pod_trouble(pod(phase="Pending", container=waiting(reason, message)), NOW)
    assert (trouble.reason, trouble.is_terminal) == ("ImagePullFailed", is_terminal)
    assert "runtime:1" in trouble.message


def test_a_secret_that_is_missing_is_named():
    message = 'secret "hub-token" not found'
    trouble = pod_trouble(pod(phase="Pending", container=waiting("CreateContainerConfigError", message)), NOW)
    assert trouble.reason == "ConfigMissing"
    assert "hub-token" in trouble.message


@pytest.mark.parametrize(
    ("said", "reason", "is_terminal"),
    [
        (
            "penstock: a/b is gated: accept its terms on the hub, then run `hf auth login` or set HF_TOKEN",
            "ModelAccessDenied",
            True,
        ),
        (
            "a/b is not on the hub (404), or the token may not see it: check the name, and the token's rights",
            "ModelNotFound",
            True,
        ),
        (
            "a/b is private, or not on the hub (401): check the name, or run `hf auth login` or set HF_TOKEN",
            "ModelAccessDenied",
            True,
        ),
        (
            "a/b: the hub refuses the token (401): check HF_TOKEN, or run `hf auth login` again",
            "ModelAccessDenied",
            True,
        ),
        ("a/b does not fit: no room is left on the disk of the model cache", "ModelCacheFull", True),
        ("cannot write the model cache /var: Permission denied", "ModelCacheReadOnly", True),
        ("a/b has no revision 'x' on the hub", "ModelNotFound", True),
        ("a/b cannot be fetched from the hub: timed out", "ModelDownloadFailed", False),
        ("too little memory for the KV cache: it holds 12 tokens", "OutOfMemory", True),
        ("the blocks of this pod are of another model, type or layout", "HandshakeRefused", False),
        ("penstock: --max-model-len: 99 is more than the model has", "WrongFlag", True),
        ("penstock serve: error: unknown flag --no-such (see penstock serve --help)", "WrongFlag", True),
        ("Traceback\nValueError: --- no idea", "CrashLoop", False),
    ],
)
def test_the_runtimes_last_words_are_the_root_cause(said, reason, is_terminal):
    ended = waiting("CrashLoopBackOff", exitCode=1, reason="Error", message=f"a line before\n{said}\n")
    trouble = pod_trouble(pod(phase="Running", container=ended), NOW)
    assert (trouble.reason, trouble.is_terminal) == (reason, is_terminal)
    assert said.splitlines()[-1] in trouble.message
    assert "a line before" not in trouble.message


def test_what_an_init_container_says_comes_first():
    init = waiting("CrashLoopBackOff", exitCode=1, message="a/b is gated")
    trouble = pod_trouble(pod(phase="Pending", init=init, container=waiting("PodInitializing")), NOW)
    assert trouble.reason == "ModelAccessDenied"


def test_a_pod_killed_for_its_memory_says_what_to_raise():
    ended = waiting("CrashLoopBackOff", exitCode=137, reason="OOMKilled")
    trouble = pod_trouble(pod(phase="Running", container=ended), NOW)
    assert trouble.reason == "OutOfMemory"
    assert "limits.memory" in trouble.message


def test_a_crash_without_words_says_how_it_ended():
    ended = waiting("CrashLoopBackOff", exitCode=137, reason="Error")
    assert "SIGKILL" in pod_trouble(pod(phase="Running", container=ended), NOW).message
    ended = waiting("CrashLoopBackOff", exitCode=3, reason="Error")
    assert "exit code 3, 3 restarts" in pod_trouble(pod(phase="Running", container=ended), NOW).message


def test_containers_that_never_come_are_a_trouble_after_a_while():
    creating = waiting("ContainerCreating")
    assert pod_trouble(pod(phase="Pending", container=creating, age=299), NOW) is None
    assert pod_trouble(pod(phase="Pending", container=creating, age=301), NOW).reason == "NotCreated"


def test_an_evicted_pod_and_a_silent_node():
    evicted = pod_trouble(pod(phase="Failed", reason="Evicted", message="low on memory"), NOW)
    assert (evicted.reason, "low on memory" in evicted.message) == ("Evicted", True)
    target = [{"type": "DisruptionTarget", "status": "True", "message": "low on memory"}]
    ended_well = pod_trouble(pod(phase="Succeeded", conditions=target), NOW)
    assert (ended_well.reason, "low on memory" in ended_well.message) == ("Evicted", True)
    assert pod_trouble(pod(phase="Succeeded"), NOW) is None
    over = pod(phase="Succeeded")  # as the kubelet leaves a pod whose emptyDir grew beyond its limit
    over["metadata"]["labels"] = {"penstock.dev/role": "both"}
    assert pod_trouble(over, NOW).reason == "PodEnded"
    over["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_trouble(over, NOW) is None
    silent = pod(phase="Running", conditions=[{"type": "Ready", "status": "Unknown"}])
    assert pod_trouble(silent, NOW).reason == "NodeUnreachable"


def test_a_pod_of_which_only_its_node_says_nothing_is_not_taken_for_one_that_starts():
    def reason(containers: str, **ready: str) -> str | None:
        conditions = [{"type": "Ready", **ready}, {"type": "ContainersReady", "status": containers}]
        found = pod_trouble(pod(phase="Running", conditions=conditions), NOW)
        return None if found is None else found.reason

    assert reason("True", status="False") == "NodeUnreachable"
    assert reason("False", status="False", reason="ContainersNotReady") is None
    assert reason("True", status="False", reason="ReadinessGatesNotReady") is None
    assert reason("True", status="True") is None


def test_long_words_of_others_are_cut():
    conditions = [{"type": "PodScheduled", "status": "False", "message": "x" * 10_000}]
    assert len(pod_trouble(pod(phase="Pending", conditions=conditions), NOW).message) < 600


def test_a_quota_that_refuses_pods_is_told_of_the_deployment():
    conditions = [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}]
    trouble = workload_trouble({"metadata": {"name": "chat-decode-a"}, "status": {"conditions": conditions}})
    assert (trouble.reason, "exceeded quota" in trouble.message) == ("PodsRefused", True)
    assert workload_trouble({"metadata": {"name": "chat-decode-a"}}) is None
