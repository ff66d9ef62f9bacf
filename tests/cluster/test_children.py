"""What a real API server says of the manifests that examples become: every field is known, every pod allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock_operator import kinds
from penstock_operator.desired.build import build_children
from penstock_operator.kinds import kind_of
from support.operator_services import EXAMPLES, all_manifests, build_defaults, load_example

BUILT_IN = ("v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_children_of_an_example_are_taken_as_they_are(cluster, namespace, path: Path):
    manifests = []
    for manifest in all_manifests(build_children(load_example(path), build_defaults())):
        if kind_of(manifest).api_version in BUILT_IN:
            manifest["metadata"]["namespace"] = namespace
            manifests.append(json.dumps(manifest))
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted")
    words = ("--server-side", "--dry-run=server", "--validate=strict", "-n", namespace)
    done = cluster.run("kubectl", "apply", *words, "-f", "-", text="\n---\n".join(manifests))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(manifests)
    is_warned = "violate PodSecurity" in done.stderr and "IPC_LOCK" in done.stderr
    assert is_warned == (path.stem == "rdma"), done.stderr


def test_all_kinds_that_every_cluster_has_are_among_the_examples():
    seen = {
        kind_of(manifest)
        for path in EXAMPLES
        for manifest in all_manifests(build_children(load_example(path), build_defaults()))
    }
    assert {kinds.DEPLOYMENT, kinds.JOB, kinds.VOLUME_CLAIM, kinds.DISRUPTION_BUDGET, *kinds.OPTIONAL[-2:]} <= seen
