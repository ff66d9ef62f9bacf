"""What `penstock fetch` tells of a download, as the operator asks for it and puts it into the status."""

from __future__ import annotations

from dataclasses import replace
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from penstock.errors import ModelError
from penstock.loader.hub_progress import HubDownload, Progress, ProgressServer
from penstock_operator import kinds, names
from penstock_operator.desired.build import build_children
from penstock_operator.observed import download_progress
from penstock_operator.observed.download_progress import ask_progress
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import DownloadSeen
from penstock_operator.plan.planner import DOWNLOAD_SECONDS, plan
from penstock_operator.service import Manifest
from penstock_operator.status.build import build_status
from support.operator_services import SMALL, build_defaults, build_service

SHARED = SMALL | {"model": {"source": "hf://a/b", "cache": {"type": "Shared", "size": "30Gi"}}}


class HalfThere(HubDownload):
    """A download of which so much has arrived."""

    def __init__(self, known: Progress | None) -> None:
        super().__init__("a/b", None)
        self.known = known

    def progress(self) -> Progress:
        if self.known is None:
            raise ModelError("the hub does not answer")
        return self.known


@pytest.fixture
def tell(monkeypatch):
    """Starts what a downloading pod runs, and has the operator ask there."""
    servers: list[ThreadingHTTPServer] = []

    def start(known: Progress | None) -> None:
        server = ProgressServer(0, HalfThere(known))
        server.start()
        servers.append(server)
        monkeypatch.setattr(names, "HTTP_PORT", server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_operator_understands_what_a_download_says(tell):
    tell(Progress(3 << 30, 16 << 30))
    assert ask_progress("127.0.0.1") == DownloadSeen(done=3 << 30, total=16 << 30)


def test_a_download_that_knows_nothing_yet_and_one_that_is_gone_say_nothing(tell, monkeypatch):
    tell(None)
    assert ask_progress("127.0.0.1") is None
    monkeypatch.setattr(names, "HTTP_PORT", 1)
    assert ask_progress("127.0.0.1") is None


def test_both_sides_mean_the_same_path():
    from penstock.loader.hub_progress import PROGRESS_PATH

    assert download_progress.PATH == PROGRESS_PATH


def test_the_status_shows_how_much_has_arrived_and_is_looked_at_again_soon():
    service = build_service(SHARED)
    children = build_children(service, build_defaults())
    [job] = [found for found in children.applied if found["kind"] == "Job"]
    running: Manifest = {
        **job,
        "status": {"active": 1},
        "metadata": job["metadata"] | {"uid": "job", "creationTimestamp": NOW},
    }
    objects = {(kinds.JOB, job["metadata"]["name"]): running, (kinds.POD, "loader"): pod_of(running)}
    seen = observe(service, objects, {}, 0.0)
    assert seen.downloader is not None
    assert seen.downloader.address == "10.0.0.9"
    told = replace(seen, download=DownloadSeen(done=5 * 10**9, total=9 * 10**9))
    planned = plan(service, children, told)
    assert planned.wake_after is not None
    assert planned.wake_after <= DOWNLOAD_SECONDS
    status = build_status(service, children, told, planned, None, 0.0)
    [ready] = [found for found in status["conditions"] if found["type"] == "ModelReady"]
    assert ready["message"] == "the shared cache is being filled: 55 %, 5.0 of 9.0 GB"
    assert status["model"] == {"phase": "Downloading", "bytesDone": 5 * 10**9, "bytesTotal": 9 * 10**9}


NOW = "2026-01-01T00:00:00Z"


def pod_of(job: Manifest) -> dict[str, Any]:
    """The Job's pod, at work."""
    owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": "job", "controller": True}
    labels = job["spec"]["template"]["metadata"]["labels"]
    metadata = {"name": "loader", "uid": "pod", "labels": labels, "ownerReferences": [owner], "creationTimestamp": NOW}
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Running", "podIP": "10.0.0.9"}}
