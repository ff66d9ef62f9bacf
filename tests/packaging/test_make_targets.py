"""`make image` and `make kind-up`: Docker, kind, kubectl and helm are programs that note their calls."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from support.local_cluster import ROOT, tool

STUB = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >>"$CALLS"
case "$name $1" in
"docker info" | "podman info" | "buildah info") case " $WORKING " in *" $name "*) ;; *) exit 1 ;; esac ;;
"kind get") echo "$CLUSTERS" ;;
esac
"""
PROGRAMS = ("docker", "podman", "buildah", "kind", "kubectl", "helm")


class Stubs:
    """A machine on which these container engines work, and these clusters of kind are there."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self._folder = folder
        for name in PROGRAMS:
            (folder / name).write_text(STUB)
            (folder / name).chmod(0o755)

    def make(self, *words: str, working: str, clusters: str = "", **variables: str) -> list[str]:
        """What was called in the end; fails if make does."""
        done = self.run(*words, working=working, clusters=clusters, **variables)
        assert done.returncode == 0, done.stderr
        return [call for call in self.calls.read_text().splitlines() if not call.endswith(" info")]

    def run(self, *words: str, working: str, clusters: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        environment = {name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "MAKEFLAGS")}
        environment |= {"PATH": f"{self._folder}:/usr/bin:/bin", "CALLS": str(self.calls)}
        environment |= {"WORKING": working, "CLUSTERS": clusters, **variables}
        return subprocess.run(["make", "-C", str(ROOT), *words], env=environment, capture_output=True, text=True)


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    return Stubs(tmp_path)


def test_both_images_are_built_under_their_names_with_the_engine_that_works(stubs):
    calls = stubs.make("image", "IMAGE_TAG=7", working="podman buildah")
    assert [call.split()[0] for call in calls] == ["podman", "podman"]
    assert "--target runtime-cpu --tag penstock-runtime-cpu:7" in calls[0]
    assert "--target operator --tag penstock-operator:7" in calls[1]


def test_a_chosen_engine_is_taken_although_others_work(stubs):
    calls = stubs.make("image", working="docker", CONTAINER_TOOL="buildah")
    assert [call.split()[:2] for call in calls] == [["buildah", "build"]] * 2
    assert "penstock-operator:0.1.0" in calls[1]


def test_without_any_engine_it_is_said_what_is_needed(stubs):
    done = stubs.run("image", working="")
    assert done.returncode != 0
    assert "docker, podman or buildah is needed" in done.stderr


def test_a_cluster_of_kind_gets_the_images_and_both_charts(stubs):
    calls = stubs.make("kind-up", "IMAGE_TAG=7", working="docker")
    programs = [" ".join(call.split()[:2]) for call in calls]
    assert programs == [
        *("docker build", "docker build", "kind get", "kind create", "kind load", "kubectl config"),
        *("helm upgrade", "helm upgrade", "kubectl --namespace", "kubectl --namespace"),
    ]
    assert calls[4] == "kind load docker-image --name penstock penstock-runtime-cpu:7 penstock-operator:7"
    assert "use-context kind-penstock" in calls[5]


def test_a_cluster_that_is_there_is_used(stubs):
    calls = stubs.make("kind-up", working="docker", clusters="penstock")
    assert not [call for call in calls if call.startswith("kind create")]


@pytest.mark.skipif(tool("helm") is None, reason="no helm in the PATH or in the cluster-tools")
def test_the_charts_take_what_it_gives_them(stubs):
    calls = stubs.make("kind-up", "IMAGE_TAG=7", working="docker")
    rendered = []
    for call in (call for call in calls if call.startswith("helm ")):
        _, _, _, release, chart, *words = shlex.split(call)
        words = [word for word in words if word not in ("--create-namespace", "--wait")]
        done = subprocess.run(
            [str(tool("helm")), "template", release, str(ROOT / chart), *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        rendered.append(done.stdout)
    assert "name: inferenceservices.penstock.dev" in rendered[0]
    assert 'image: "penstock-operator:7"' in rendered[1]
    assert "--runtime-image=penstock-runtime-cpu:7" in rendered[1]
