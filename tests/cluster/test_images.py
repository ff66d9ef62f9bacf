"""The images: small enough, without root, and complete without a network."""

from __future__ import annotations

import json
import urllib.request

from support.kube_cluster import wait_until

SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
LABELS = {"app": "chat"}


def build_pod(name: str, namespace: str, container: dict) -> dict:
    """A pod that may do nothing, with scratch space in /tmp and /dev/shm alone."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": LABELS},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [{"name": "main", "securityContext": SECURITY, "volumeMounts": mounts, **container}],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        },
    }


def output_of(cluster, namespace: str, image: str, *words: str) -> str:
    """What a program in a pod of the image prints."""
    cluster.apply(build_pod("once", namespace, {"image": image, "command": list(words)}))
    over = ("Succeeded", "Failed")
    wait_until(lambda: cluster.get("pod", "once", namespace)["status"]["phase"] in over, 60, f"{words} did not end")
    return cluster.kubectl("logs", "once", "-n", namespace)


def test_the_runtime_serves_the_embedded_model_without_root_network_and_writable_files(
    cluster, namespace, runtime_image
):
    words = ["--host=0.0.0.0", "--threads=1", "--kv-cache-memory=64MiB"]
    container = {
        "image": runtime_image,
        "args": ["serve", *words],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8000}, "periodSeconds": 1},
    }
    service = {"selector": LABELS, "ports": [{"port": 80, "targetPort": 8000}]}
    metadata = {"name": "chat", "namespace": namespace}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        build_pod("chat", namespace, container),
    )
    cluster.kubectl("wait", "--for=condition=Ready", "pod/chat", "-n", namespace, "--timeout=90s")
    question = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
    with cluster.reach(namespace, "chat") as url:
        answer = wait_until(lambda: post(f"{url}/v1/completions", question), 10, "no answer")
    assert "Paris" in answer["choices"][0]["text"]


def post(url: str, body: dict) -> dict | None:
    """The answer, or None while nobody listens: kube-proxy needs a moment after a pod has become ready."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise


def test_the_runtime_has_what_prefill_and_decode_pods_share_kv_with(cluster, namespace, runtime_image):
    program = "import nixl; print(nixl.nixl_agent('a', nixl.nixl_agent_config(enable_prog_thread=False)).backends)"
    assert "UCX" in output_of(cluster, namespace, runtime_image, "python", "-c", program)


def test_the_operators_image_has_no_torch_and_starts_its_program(cluster, namespace, operator_image):
    program = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('pip'), u.find_spec('kopf') and 1)"
    words = f'python -c "{program}"; penstock-operator run --help'
    said = output_of(cluster, namespace, operator_image, "sh", "-c", words)
    assert said.startswith("None None 1\n")
    assert "--runtime-image" in said
