"""The Dockerfile, read and not built: `tests/cluster` builds what this machine can, which is not the image for GPUs."""

from __future__ import annotations

import re

import pytest

from support.local_cluster import ROOT

TARGETS = ("operator", "runtime-cpu", "runtime-cuda")
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def read_stages() -> dict[str, list[str]]:
    """Instructions of each stage, the first of which is its FROM."""
    stages: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in filter(None, map(str.strip, TEXT.splitlines())):
        if line.startswith("FROM "):
            lines = stages.setdefault(line.rpartition(" AS ")[2], [])
        if not line.startswith("#"):
            lines.append(line)
    return stages


STAGES = read_stages()


def needs(stage: str) -> set[str]:
    """Names of the stages that one is made from, or copies from."""
    told = "\n".join(STAGES[stage])
    return set(re.findall(r"--from=(\S+)", told)) | set(re.findall(r"^FROM (?!\$)(\S+)", told))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_made_of_earlier_ones(stage):
    names = list(STAGES)
    assert needs(stage) <= set(names[: names.index(stage)])


@pytest.mark.parametrize("target", TARGETS)
def test_every_image_runs_without_root_and_without_a_shell_in_between(target):
    told = "\n".join(STAGES[target])
    assert "USER 65532:65532" in told
    assert re.search(r'^ENTRYPOINT \["penstock(-operator)?"\]$', told, re.MULTILINE)
    assert "HOME=/tmp" in told


def test_base_images_are_arguments_with_the_tag_of_a_version():
    assert {line for stage in STAGES.values() for line in stage if line.startswith("FROM ") and "${" not in line} == {
        line for stage in STAGES.values() for line in stage if line.startswith("FROM ") and line.split()[1] in STAGES
    }
    (base,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"\S+:[\d.]+-\S+", base)


def test_both_runtimes_have_the_same_libraries_but_for_what_the_device_needs():
    cpu, cuda = ("\n".join(STAGES[f"runtime-{device}-environment"]) for device in ("cpu", "cuda"))
    for told in (cpu, cuda):
        assert "-c /constraints.txt -r /requirements.txt" in told
        assert "--no-deps -c /constraints.txt nixl nixl-cu13" in told
    assert "TORCH_INDEX" in cpu
    assert "TORCH_INDEX" not in cuda  # what the package index has by itself is the build for CUDA
