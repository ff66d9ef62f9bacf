"""Nodes and pods that exist in the API alone: kwok plays their kubelets, so a thousand pods cost nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from support.kube_cluster import Cluster, wait_until

LEASE_SECONDS = 40  # of nodes, renewed each quarter of that
LABEL, TAINT = {"type": "simulated"}, "simulated"
PLACE: dict[str, Any] = {"nodeSelector": LABEL, "tolerations": [{"key": TAINT, "operator": "Exists"}]}  # of pods there
NODE_READY = """
conditions:
- {type: Ready, status: "True", reason: Simulated, message: "", lastHeartbeatTime: {{ Now | Quote }}}
"""
POD_READY = """
phase: Running
startTime: {{ Now | Quote }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ Now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- {name: {{ .name | Quote }}, image: {{ .image | Quote }}, ready: true, restartCount: 0}
{{ end }}
"""


def build_node(number: int) -> dict[str, Any]:
    """A node with room for a thousand pods, on which nothing lands that does not ask for it."""
    room = {"cpu": "10k", "memory": "100Ti", "pods": "1000"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"simulated-{number}",
            "labels": {**LABEL, "kubernetes.io/hostname": f"simulated-{number}"},
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": [{"key": TAINT, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": room, "allocatable": room},
    }


def build_stages(start: float, end: float) -> str:
    """What kwok does, and when: seconds, at most, that a pod takes to be ready and to end; each takes its own time."""

    def stage(name: str, kind: str, wants: list[dict[str, Any]], then: dict[str, Any], seconds: float = 0.0) -> Any:
        spec = {"resourceRef": {"apiGroup": "v1", "kind": kind}, "selector": {"matchExpressions": wants}, "next": then}
        if seconds:
            spec["delay"] = {"durationMilliseconds": 100, "jitterDurationMilliseconds": int(seconds * 1e3)}
        return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}

    def is_there(path: str, operator: str) -> dict[str, Any]:
        return {"key": path, "operator": operator}

    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    stays, leaves = (is_there(".metadata.deletionTimestamp", each) for each in ("DoesNotExist", "Exists"))
    again = [stays, is_there(".status.podIP", "Exists"), is_there(ready, "NotIn") | {"values": ["True"]}]
    stages = (
        stage("node", "Node", [is_there(ready, "NotIn") | {"values": ["True"]}], {"statusTemplate": NODE_READY}),
        stage("pod", "Pod", [stays, is_there(".status.podIP", "DoesNotExist")], {"statusTemplate": POD_READY}, start),
        stage("again", "Pod", again, {"statusTemplate": POD_READY}),  # after its node was thought to be away
        stage("end", "Pod", [leaves], {"finalizers": {"empty": True}, "delete": True}, end),
    )
    return yaml.safe_dump_all(stages)


def on_simulated_nodes(spec: dict[str, Any]) -> dict[str, Any]:
    """An InferenceService's spec whose pods run there."""
    parts = {"router": spec.get("router", {})} | {role: spec[role] for role in ("prefill", "decode") if role in spec}
    return {**spec, **{name: {**part, "template": {"spec": PLACE}} for name, part in parts.items()}}


@contextmanager
def simulated_nodes(
    cluster: Cluster, folder: Path, count: int = 1, *, start: float = 0.0, end: float = 0.0
) -> Iterator[None]:
    """That many nodes are ready; afterwards they are gone. `start` and `end`: as for `build_stages`."""
    log, stages = folder / "kwok.log", folder / "stages.yaml"
    stages.write_text(build_stages(start, end))
    which = ("--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake", "--config", str(stages))
    words = ("--kubeconfig", str(cluster.kubeconfig), *which, f"--node-lease-duration-seconds={LEASE_SECONDS}")
    with log.open("w") as output:
        kwok = subprocess.Popen([f"{cluster.programs}/kwok", *words], stdout=output, stderr=output)
    nodes = [build_node(number) for number in range(count)]
    try:
        cluster.apply(*nodes)
        wait_until(lambda: num_ready(cluster) == count, 60, log.read_text)
        yield
    finally:
        cluster.run("kubectl", "delete", "node", *(node["metadata"]["name"] for node in nodes), "--wait=false")
        kwok.terminate()
        kwok.wait(30)


def num_ready(cluster: Cluster) -> int:
    """Simulated nodes that are ready."""
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    selector = ",".join(f"{name}={value}" for name, value in LABEL.items())
    return cluster.kubectl("get", "nodes", "-l", selector, "-o", f"jsonpath={path}").split().count("True")
