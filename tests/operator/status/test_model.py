"""What the status says of the way of a model to its pods."""

from __future__ import annotations

import dataclasses

import pytest

from penstock_operator import kinds
from penstock_operator.desired.build import build_children
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import DownloadSeen
from penstock_operator.plan.planner import plan
from penstock_operator.status.build import build_status
from penstock_operator.timestamps import to_timestamp
from support.operator_services import SMALL, build_defaults, build_service

NOW = 1_700_000_000.0
SHARED = {"model": {"source": "hf://org/name", "cache": {"type": "Shared", "size": "5Gi"}}}
REFUSED = "penstock: org/name is private, or not on the hub (401): check the name, or set HF_TOKEN"


class Look:
    """One status of a service whose Job has a pod."""

    def __init__(self) -> None:
        self.service = build_service(SMALL | SHARED)
        self.children = build_children(self.service, build_defaults())
        self.job = next(each for each in self.children.applied if each["kind"] == "Job")

    def status(self, *pods: dict, download: DownloadSeen | None = None, now: float = NOW, **job) -> dict:
        made = {"uid": "j", "creationTimestamp": to_timestamp(NOW - 100)}
        objects = {(kinds.JOB, self.name): {**self.job, "metadata": {**self.job["metadata"], **made}, "status": job}}
        objects |= {(kinds.POD, pod["metadata"]["name"]): pod for pod in pods}
        observed = dataclasses.replace(observe(self.service, objects, {}, now), download=download)
        planned = plan(self.service, self.children, observed)
        return build_status(self.service, self.children, observed, planned, None, now)

    @property
    def name(self) -> str:
        return self.job["metadata"]["name"]

    def pod(self, name: str, phase: str, age: float = 60.0, /, **container) -> dict:
        owner = {"kind": "Job", "name": self.name, "uid": "j", "controller": True}
        metadata = {"name": name, "uid": name, "creationTimestamp": to_timestamp(NOW - age), "ownerReferences": [owner]}
        status = {"phase": phase, "podIP": "10.0.0.1", "containerStatuses": [container] if container else []}
        return {"metadata": metadata, "status": status}


def condition(status: dict, kind: str) -> tuple[str, str, str]:
    one = next(each for each in status["conditions"] if each["type"] == kind)
    return one["status"], one["reason"], one["message"]


def running(since: float, **last) -> dict:
    state = {
        "name": "download",
        "ready": True,
        "state": {"running": {"startedAt": to_timestamp(NOW - since)}},
        "restartCount": 2,
    }
    return {**state, "lastState": {"terminated": last}} if last else state


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (DownloadSeen(done=39_500_000, total=94_000_000), "42 %, 39.5 of 94.0 MB"),
        (DownloadSeen(done=0, total=16_400_000_000), "0 %, 0.0 of 16.4 GB"),
        (DownloadSeen(done=0, total=0), "0 %, 0.0 of 0.0 MB"),
    ],
)
def test_progress_is_told_in_numbers_and_in_words(seen, told):
    look = Look()
    status = look.status(look.pod("a", "Running", **running(30)), download=seen, active=1)
    assert condition(status, "ModelReady") == ("False", "Downloading", f"the shared cache is being filled: {told}")
    assert status["model"] == {"phase": "Downloading", "bytesDone": seen.done, "bytesTotal": seen.total}


def test_a_hub_that_refuses_is_the_root_cause_of_everything_while_it_is_asked_again_and_again():
    look = Look()
    ended = {"exitCode": 1, "message": REFUSED}
    waiting = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
    for container in (waiting, running(5, **ended)):
        status = look.status(look.pod("a", "Running", **container), active=1)
        for kind in ("ModelReady", "Ready"):
            value, reason, message = condition(status, kind)
            assert (value, reason) == ("False", "ModelAccessDenied")
            assert "(401)" in message
            assert "spec.model.credentialsSecret" in message
        assert condition(status, "Stalled")[:2] == ("True", "ModelAccessDenied")
        assert status["model"]["phase"] == "Failed"


def test_a_download_that_runs_for_a_while_again_is_under_way():
    look = Look()
    status = look.status(look.pod("a", "Running", **running(30, exitCode=1, message=REFUSED)), active=1)
    assert condition(status, "ModelReady")[1] == "Downloading"


def test_a_pod_that_was_evicted_says_so_until_another_one_has_done_its_work():
    look = Look()
    evicted = look.pod("a", "Failed", 90)
    evicted["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
    told = condition(look.status(evicted, active=0), "ModelReady")
    assert told[1] == "Evicted"
    assert "low on resource" in told[2]
    ended = look.pod("b", "Succeeded", 60)
    assert condition(look.status(evicted, ended, succeeded=1), "ModelReady")[:2] == ("True", "Downloaded")


def test_a_cache_of_the_pod_that_is_too_small_is_to_be_made_larger():
    look = Look()
    evicted = look.pod("a", "Failed")
    told = 'Usage of EmptyDir volume "model-cache" exceeds the limit "20Mi". '
    evicted["status"]["message"] = told
    ended_well = look.pod("a", "Succeeded")
    ended_well["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "message": told}]
    for pod in (evicted, ended_well):
        value, reason, message = condition(look.status(pod), "Stalled")
        assert (value, reason) == ("True", "ModelCacheFull")
        assert "raise spec.model.cache.size" in message
