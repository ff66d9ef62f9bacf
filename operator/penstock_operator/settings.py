"""The operator's settings: flags of `penstock-operator`, which the chart's values fill in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Frozen after parsing."""

    namespaces: tuple[str, ...] = ()  # empty: all
    operator_class: str = ""  # only objects with this value of the annotation penstock.dev/operator-class
    runtime_image: str = ""
    cluster_domain: str = "cluster.local"
    operator_namespace: str = "penstock-system"
    pod_name: str = "penstock-operator"  # of this process, in the Lease
    master_key_file: Path = Path("/etc/penstock-operator/key")
    metrics_port: int = 8080
    health_port: int = 8081
    leader_election: bool = True
    resync_seconds: float = 600.0
    scrape_seconds: float = 2.0
    num_workers: int = 4  # reconciles at a time
    request_seconds: float = 15.0  # timeout of one call to the API server
