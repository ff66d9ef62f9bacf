"""`config/`, for those who use kustomize: what the chart renders, without Helm. `UPDATE_GOLDENS=1` writes it anew."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from support.local_cluster import ROOT, tool

BASE = ROOT / "config"
HEAD = "# From charts/penstock: UPDATE_GOLDENS=1 pytest tests/charts\n"

pytestmark = pytest.mark.skipif(tool("helm") is None, reason="no helm in the PATH or in the cluster-tools")


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


def test_it_is_what_the_chart_renders():
    values = ("--set", "masterKey.existingSecret=penstock-key")
    rendered = HEAD + run(
        str(tool("helm")),
        "template",
        "penstock",
        str(ROOT / "charts/penstock"),
        "--namespace",
        "penstock-system",
        *values,
    )
    golden = BASE / "operator.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


def test_kustomize_builds_it_with_everything_in_the_operators_namespace():
    built = list(yaml.safe_load_all(run(str(tool("kubectl")), "kustomize", str(BASE))))
    kinds = {each["kind"] for each in built}
    assert {"Namespace", "Deployment", "ClusterRoleBinding", "Role"} <= kinds
    subjects = [subject for each in built for subject in each.get("subjects", ())]
    assert {subject["namespace"] for subject in subjects} == {"penstock-system"}
    (deployment,) = (each for each in built if each["kind"] == "Deployment")
    assert deployment["metadata"]["namespace"] == "penstock-system"
