"""`penstock k8s` against a cluster in memory, through a kubeconfig and real HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.cli import main
from penstock_operator.errors import ApiError
from penstock_operator.kinds import EVENT, INFERENCE_SERVICE, POD
from penstock_operator.names import COMPONENT, ROUTER
from support.memory_http import kubeconfig
from support.operator_run import OperatorRun

Ask = Callable[..., str]

DECISION = {
    "time": "2026-01-01T00:00:00Z",
    "role": "both",
    "from": 1,
    "to": 2,
    "signal": "kvUtilizationPercent",
    "message": "both from 1 to 2 pods: the KV cache is full",
}


@pytest.fixture
def run() -> OperatorRun:
    run = OperatorRun()
    run.now = time.time() - 600
    run.create()
    return run


@pytest.fixture
def ask(run: OperatorRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Ask]:
    with kubeconfig(run.api, tmp_path) as file:

        def ask(*words: str, code: int = 0) -> str:
            assert main(["k8s", *words, "--kubeconfig", str(file)]) == code
            told = capsys.readouterr()
            return told.out if code == 0 else told.err

        yield ask


def break_a_pod(run: OperatorRun) -> str:
    name = next(pod["metadata"]["name"] for pod in run.api.all(POD) if pod["metadata"]["labels"][COMPONENT] != ROUTER)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}
    state = {"name": "runtime", "image": "nowhere:1", "ready": False, "state": {"waiting": waiting}}
    status = {"phase": "Pending", "conditions": [], "containerStatuses": [state | {"restartCount": 0}]}
    run.api.update(POD, "default", name, {"status": status})
    run.settle(1)
    return name


def test_a_service_that_is_well_is_shown_with_its_pods(run, ask):
    run.settle()
    told = ask("status", "chat")
    assert "chat (default)\n  ready for " in told
    assert "both    2      2" in told
    assert told.count("  ready  ") >= 3
    assert "RouterReady" in told


def test_all_services_are_listed_with_their_state(run, ask):
    run.settle()
    assert "default    chat  hf://org/model  2/2   Serving" in ask("status")
    assert "No InferenceService in elsewhere" in ask("status", "-n", "elsewhere")
    assert "1 InferenceService\n" in ask("status", "-A")


def test_what_is_wrong_with_a_pod_is_told_with_what_to_do(run, ask):
    run.settle()
    pod = break_a_pod(run)
    told = " ".join(ask("explain", "chat").split())
    assert f"pod {pod} cannot get its image nowhere:1: Back-off pulling image: not found" in told
    assert f"check spec.runtime.image and imagePullSecrets; kubectl describe pod {pod}" in told
    assert "ImagePullFailed" in " ".join(ask("status", "chat").split())


def test_who_has_how_many_pods_and_why(run, ask):
    run.settle()
    assert "both: 2, because spec.decode.replicas says so" in ask("explain", "chat")
    run.api.update(
        INFERENCE_SERVICE,
        "default",
        "chat",
        {"status": {"autoscaling": {"mode": "Builtin", "lastDecisions": [DECISION]}}},
    )
    told = ask("explain", "chat")
    assert "What the autoscaler decided" in told
    assert "ago: both from 1 to 2 pods: the KV cache is full" in told


def test_events_of_the_service_are_told_and_those_of_others_are_not(run, ask):
    run.settle()
    run.api.post(
        {
            "apiVersion": EVENT.api_version,
            "kind": "Event",
            "metadata": {"name": "e", "namespace": "default"},
            "type": "Warning",
            "reason": "Odd",
            "note": "somebody else's trouble",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": "other-1"},
        }
    )
    told = ask("explain", "chat")
    assert "InferenceService chat: Created: created" in told
    assert "somebody else" not in told


def test_a_service_that_no_operator_looks_after_is_recognised(run, ask):
    run.api.update(INFERENCE_SERVICE, "default", "chat", {"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}})
    assert "no operator has seen this service yet: is one running?" in ask("explain", "chat")


def test_what_the_reader_may_not_list_is_left_out_and_said(run, ask):
    run.settle()
    run.api.refuse = lambda verb, kind, name: ApiError(403, "no", reason="Forbidden") if kind == POD else None
    assert "you have no right to list pods" in ask("explain", "chat")


def test_mistakes_are_one_line_that_says_what_to_do(run, ask, tmp_path):
    assert "there is no InferenceService chatt in namespace default; `penstock k8s status -A`" in ask(
        "status", "chatt", code=1
    )
    assert "explain what?" in ask("explain", code=1)
    assert "there is no 'prod' in the kubeconfig; there are test" in ask("status", "--context", "prod", code=1)
    assert main(["k8s", "status", "--kubeconfig", str(tmp_path / "none")]) == 1
