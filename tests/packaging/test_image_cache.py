"""Images for tests: two runs at a time build each once, and neither takes the other's away."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.local_cluster import ROOT

BUILDAH = """#!/bin/sh
case "$1" in
build) echo built >>"$CALLS"; sleep 0.3 ;;
push) archive=${3#docker-archive:}; echo image >"${archive%%:*}" ;;
esac
"""
RUN = """
import sys
from support import container_images
container_images.digest_of = lambda target: sys.argv[1]
image = container_images.build("operator")
print(image.name, flush=True)
sys.stdin.read()
print(image.archive.exists(), flush=True)
"""


class Runs:
    """Test runs, each a process that asks for the operator's image and keeps it until it is told to end."""

    def __init__(self, folder: Path) -> None:
        (folder / "buildah").write_text(BUILDAH)
        (folder / "buildah").chmod(0o755)
        self.calls, self.images = folder / "calls", folder / "penstock/images"
        self._environment = os.environ | {
            "PATH": f"{folder}:/usr/bin:/bin",
            "CALLS": str(self.calls),
            "CONTAINER_TOOL": "buildah",
            "XDG_CACHE_HOME": str(folder),
            "PYTHONPATH": str(ROOT / "tests"),
        }
        self._environment.pop("PIP_FIND_LINKS", None)

    def begin(self, digest: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", textwrap.dedent(RUN), digest]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=self._environment, stdin=pipe, stdout=pipe, text=True)

    @property
    def num_built(self) -> int:
        return len(self.calls.read_text().splitlines())

    @property
    def kept(self) -> set[str]:
        return {archive.name for archive in self.images.glob("*.tar")}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def has(run: subprocess.Popen[str]) -> str:
    return run.stdout.readline().strip()


def end(run: subprocess.Popen[str]) -> str:
    """Whether its archive was there to the last."""
    return run.communicate(timeout=20)[0].strip()


def test_two_runs_of_the_same_sources_build_once(runs):
    one, two = runs.begin("a"), runs.begin("a")
    assert has(one) == has(two) == "penstock-operator:test-a"
    assert runs.num_built == 1
    assert [end(one), end(two)] == ["True", "True"]


def test_newer_sources_take_an_image_away_only_from_those_who_are_gone(runs):
    one = runs.begin("a")
    has(one)
    two = runs.begin("b")
    has(two)
    assert runs.kept == {"operator-a.tar", "operator-b.tar"}
    assert end(one) == "True"
    three = runs.begin("c")
    has(three)
    assert runs.kept == {"operator-b.tar", "operator-c.tar"}
    assert [end(two), end(three)] == ["True", "True"]
