"""The operator's settings: flags of `penstock-operator run`, which the chart's values fill in.

A field `num_workers` is the flag `--num-workers`; a tuple takes words with commas between them, a bool also `--no-…`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from penstock_operator.errors import OperatorError

KEY_FILE = "/etc/penstock-operator/key"  # where the chart mounts it


def setting(default: Any, text: str, *, bounds: tuple[float, float] | None = None) -> Any:
    """A dataclass field with its help text and its bounds (inclusive)."""
    return dataclasses.field(default=default, metadata={"help": text, "bounds": bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Frozen after parsing. Raises `OperatorError` that names the flag for a value out of bounds."""

    namespaces: tuple[str, ...] = setting((), "namespaces to look after, with commas between them; default: all")
    operator_class: str = setting(
        "", "look only after services whose annotation penstock.dev/operator-class says this; default: those without it"
    )
    runtime_image: str = setting("", "image of pods whose service names none")
    cluster_domain: str = setting("cluster.local", "domain of the cluster's DNS")
    operator_namespace: str = setting("penstock-system", "namespace of this operator, and of its Lease")
    pod_name: str = setting("penstock-operator", "name of this process in the Lease and in Events")
    master_key_file: str = setting(KEY_FILE, "file with the key from which every service's own key is made")
    metrics_port: int = setting(8080, "port of /metrics; 0: any that is free", bounds=(0, 65535))
    health_port: int = setting(8081, "port of /livez and /readyz; 0: any that is free", bounds=(0, 65535))
    leader_election: bool = setting(True, "write only while holding the Lease, so that several replicas may run")
    resync_seconds: float = setting(600.0, "between two looks at everything", bounds=(1, 86_400))
    scrape_seconds: float = setting(2.0, "between two looks at the load of a service that is scaled", bounds=(0.1, 60))
    external_metrics_port: int = setting(0, "port of the API from which HPAs get metrics; 0: none", bounds=(0, 65535))
    external_metrics_folder: str = setting(
        "/etc/penstock-metrics", "folder with the certificate of that API: tls.crt and tls.key"
    )
    keda_port: int = setting(0, "port of the external scaler that KEDA asks, gRPC; 0: none", bounds=(0, 65535))
    scaler_address: str = setting("", "host:port at which KEDA reaches that port; ScaledObjects name it")
    num_workers: int = setting(4, "services that are worked on at a time", bounds=(1, 64))
    request_seconds: float = setting(15.0, "after which a call to the API server has failed", bounds=(0.5, 300))
    log_level: str = setting("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            bounds, value = field.metadata["bounds"], getattr(self, field.name)
            if bounds and not bounds[0] <= value <= bounds[1]:
                flag = "--" + field.name.replace("_", "-")
                raise OperatorError(f"{flag} must be from {bounds[0]} to {bounds[1]}, not {value}")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise OperatorError(f"--log-level must be debug, info, warning or error, not {self.log_level}")
