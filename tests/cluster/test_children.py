"""What a real API server says of the manifests that examples become: every field is known, every pod allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_operator import kinds
from penstock_operator.desired.build import build_children
from penstock_operator.kinds import kind_of
from support.operator_services import EXAMPLES, all_manifests, build_defaults, load_example, pod_specs
from support.optional_definitions import installable, installed

BUILT_IN = ("v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2")


@pytest.fixture(scope="module")
def known(cluster, definitions) -> Iterator[set[kinds.Kind]]:
    """Kinds of children that the API server knows."""
    optional = installable()
    with installed(cluster, *optional):
        yield {kind for kind in kinds.ALL if kind.api_version in BUILT_IN} | {kinds.ROLE_SCALER, *optional}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_children_of_an_example_are_taken_as_they_are(cluster, namespace, known, path: Path):
    manifests = []
    for manifest in all_manifests(build_children(load_example(path), build_defaults())):
        if kind_of(manifest) in known:
            manifest["metadata"]["namespace"] = namespace
            if kind_of(manifest) == kinds.ROLE_SCALER:
                manifest["spec"]["replicas"] = 1  # whoever makes one says how many
            manifests.append(json.dumps(manifest))
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted")
    words = ("--server-side", "--dry-run=server", "--validate=strict", "-n", namespace)
    done = cluster.run("kubectl", "apply", *words, "-f", "-", text="\n---\n".join(manifests))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(manifests)
    is_warned = "violate PodSecurity" in done.stderr and "IPC_LOCK" in done.stderr
    assert is_warned == (path.stem == "rdma"), done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_pods_of_an_example_may_run_where_only_restricted_ones_may_but_for_rdma(cluster, namespace, path: Path):
    refused = {}
    for number, (name, spec) in enumerate(pod_specs(build_children(load_example(path), build_defaults())).items()):
        known = {word: value for word, value in spec.items() if word != "priorityClassName"}
        known["serviceAccountName"] = "default"
        known.pop("imagePullSecrets", None)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": known}
        words = ("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-")
        done = cluster.run("kubectl", *words, text=json.dumps(pod))
        if done.returncode:
            refused[name] = done.stderr
    if path.stem != "rdma":
        assert refused == {}
        return
    assert {name.split("-")[1] for name in refused} == {"prefill", "decode"}
    for told in refused.values():
        assert 'violates PodSecurity "restricted' in told
        assert "IPC_LOCK" in told
    cluster.kubectl("label", "namespace", namespace, "--overwrite", "pod-security.kubernetes.io/enforce=privileged")
    for name in refused:
        spec = pod_specs(build_children(load_example(path), build_defaults()))[name]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        spec["serviceAccountName"] = "default"
        words = ("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-")
        cluster.kubectl(*words, text=json.dumps(pod))


def test_all_kinds_that_every_cluster_has_are_among_the_examples():
    seen = {
        kind_of(manifest)
        for path in EXAMPLES
        for manifest in all_manifests(build_children(load_example(path), build_defaults()))
    }
    rare = {kinds.LEADER_WORKER_SET, kinds.HTTP_ROUTE, kinds.INFERENCE_POOL}
    assert {kinds.DEPLOYMENT, kinds.JOB, kinds.VOLUME_CLAIM, kinds.DISRUPTION_BUDGET, *rare} <= seen
