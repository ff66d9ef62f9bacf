"""The cluster that the other tests of this folder stand on."""

from __future__ import annotations


def test_the_cluster_has_a_node_that_takes_pods(cluster):
    nodes = cluster.items("nodes", "default")
    ready = [c["status"] for node in nodes for c in node["status"]["conditions"] if c["type"] == "Ready"]
    assert ready
    assert set(ready) == {"True"}


def test_a_namespace_of_a_test_refuses_a_pod_that_is_not_restricted(cluster, namespace):
    words = ("run", "loose", "--image=penstock-none", "-n", namespace)
    refused = cluster.run("kubectl", *words)
    assert "violates PodSecurity" in refused.stderr
