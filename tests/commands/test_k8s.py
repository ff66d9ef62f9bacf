"""`penstock k8s` against a cluster in memory, through a kubeconfig and real HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.cli import main
from penstock.commands.k8s_explanation import written_by
from penstock.commands.k8s_hints import HINTS
from penstock_operator.errors import ApiError
from penstock_operator.kinds import EVENT, INFERENCE_SERVICE, POD
from penstock_operator.names import COMPONENT, ROUTER, Key
from penstock_operator.observed.trouble import SAID
from penstock_operator.timestamps import from_timestamp
from support.local_cluster import ROOT
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


CHAT = Key("default", "chat")
NOT_READY = {
    "type": "Ready",
    "status": "False",
    "reason": "PodsNotReady",
    "message": "0 of 2 pods are ready",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
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
            return told.err if code == 1 else told.out

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
    assert f"check runtime.image and runtime.imagePullSecrets; kubectl -n default describe pod {pod}" in told
    wrong = told.partition("What is wrong")[2].partition("What to do")[0]
    assert wrong.count("cannot get its image") == 1  # however many conditions say so
    assert "ImagePullFailed" in " ".join(ask("status", "chat").split())


def test_a_service_that_is_not_ready_has_an_exit_code_of_its_own(run, ask):
    run.settle()
    ask("status", "chat")
    run.edit(CHAT, {"decode": {"replicas": 2, "resources": {"limits": {"memory": "1Xi"}}}})
    run.settle()
    told = ask("explain", "chat")  # the old pods serve on
    assert "InvalidSpec for 0s: " in told or "InvalidSpec for " in told
    assert "change the field that is named above" in told
    run.api.update(INFERENCE_SERVICE, "default", "chat", {"status": {"conditions": [NOT_READY]}})
    ask("status", "chat", code=3)
    ask("explain", "chat", code=3)
    ask("status")


def test_a_service_that_sleeps_on_purpose_has_nothing_wrong_and_says_how_to_wake_it(run, ask):
    run.edit(CHAT, {"suspend": True})
    run.settle()
    told = ask("explain", "chat")
    assert "What is wrong\n  nothing that" in told
    assert "set spec.suspend to false" in told
    assert "both: 0, because spec.suspend is set" in told


def test_pods_that_start_are_named_with_where_to_look(run, ask):
    run.work()
    run.cluster.step()
    run.work()
    told = ask("explain", "chat", code=3)
    pod = next(pod["metadata"]["name"] for pod in run.api.all(POD) if pod["metadata"]["labels"][COMPONENT] != ROUTER)
    assert f"pod {pod} starts since " in told
    assert "kubectl -n default logs chat-" in told


def test_what_a_starting_pod_cannot_mount_is_told_with_it(run, ask):
    run.work()
    run.cluster.step()
    run.work()
    pod = next(pod["metadata"]["name"] for pod in run.api.all(POD) if pod["metadata"]["labels"][COMPONENT] == ROUTER)
    note = 'MountVolume.SetUp failed for volume "api-keys" : secret "missing" not found'
    run.api.post(
        {
            "apiVersion": EVENT.api_version,
            "kind": "Event",
            "metadata": {"name": "mount", "namespace": "default"},
            "type": "Warning",
            "reason": "FailedMount",
            "note": note,
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "regarding": {"kind": "Pod", "name": pod},
        }
    )
    told = ask("explain", "chat", code=3)
    assert re.search(rf"pod {pod} starts since \w+: FailedMount: {re.escape(note)}", told)
    assert f"kubectl -n default describe pod {pod}: a Secret or a volume that it mounts is missing" in told


def test_who_scaled_a_role_last_is_told():
    fields = {"f:spec": {"f:replicas": {}}}
    notes = [
        {"manager": "penstock-operator", "time": "2026-01-01T00:00:00Z", "fieldsV1": fields},
        {"manager": "kubectl", "time": "2026-01-02T00:00:00Z", "fieldsV1": fields},
        {"manager": "somebody", "time": "2026-01-03T00:00:00Z", "fieldsV1": {"f:metadata": {}}},
    ]
    now = from_timestamp("2026-01-02T03:00:00Z")
    assert written_by({"metadata": {"managedFields": notes}}, now) == ", set by kubectl 3h ago"
    through_scale = [{"manager": "kubectl", "subresource": "scale", "fieldsV1": fields}]  # as API servers note it
    assert written_by({"metadata": {"managedFields": through_scale}}, now) == ", set by kubectl"
    assert written_by({"metadata": {}}, now) == ""
    assert written_by({"metadata": {}}, now) == ""


def test_every_reason_that_the_operator_gives_comes_with_what_to_do():
    source = "".join(path.read_text() for path in (ROOT / "operator/penstock_operator").rglob("*.py"))
    said = set(re.findall(r'(?:SpecError\(\s*|Trouble\(\s*reason=)"(\w+)"', source))
    said |= {reason for _, reason, _ in SAID}
    assert said - HINTS.keys() == set()
    assert {"Unschedulable", "InvalidSpec", "ForeignObject", "WaitingForCapacity"} <= said


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
    for number in range(3):
        run.api.post(
            {
                "apiVersion": EVENT.api_version,
                "kind": "Event",
                "metadata": {"name": f"mine-{number}", "namespace": "default"},
                "type": "Warning",
                "reason": "FailedMount",
                "note": "a volume is missing",
                "eventTime": "2026-01-01T00:00:00.000000Z",
                "regarding": {"kind": "Pod", "name": "chat-1"},
            }
        )
    told = ask("explain", "chat")
    assert "InferenceService chat: Created: created" in told
    assert told.count("a volume is missing") == 1
    assert "ago, and 2 times before: Pod chat-1: FailedMount" in told
    assert "somebody else" not in told


def test_a_service_that_no_operator_looks_after_is_recognised(run, ask):
    run.api.update(INFERENCE_SERVICE, "default", "chat", {"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}})
    told = ask("explain", "chat", code=3)
    assert "no operator has seen this service yet: is one running?" in told
    assert "no operator has said anything of it" in told


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
