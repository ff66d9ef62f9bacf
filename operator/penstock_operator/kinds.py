"""The kinds of objects that the operator deals with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind; all are namespaced but where it says otherwise."""

    api_version: str
    kind: str
    plural: str
    is_namespaced: bool = True

    @property
    def group(self) -> str:
        """Empty for the core API."""
        return self.api_version.rpartition("/")[0]


SERVICE = Kind("v1", "Service", "services")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
POD = Kind("v1", "Pod", "pods")
VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
REPLICA_SET = Kind("apps/v1", "ReplicaSet", "replicasets")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
JOB = Kind("batch/v1", "Job", "jobs")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
API_SERVICE = Kind("apiregistration.k8s.io/v1", "APIService", "apiservices", is_namespaced=False)
AUTOSCALER = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")
PROMETHEUS_RULE = Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules")
SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
LEADER_WORKER_SET = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
HTTP_ROUTE = Kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
INFERENCE_POOL = Kind("inference.networking.k8s.io/v1", "InferencePool", "inferencepools")
INFERENCE_SERVICE = Kind("penstock.dev/v1alpha1", "InferenceService", "inferenceservices")
ROLE_SCALER = Kind("penstock.dev/v1alpha1", "RoleScaler", "rolescalers")

ALL = (
    SERVICE,
    SERVICE_ACCOUNT,
    API_SERVICE,
    CONFIG_MAP,
    SECRET,
    POD,
    VOLUME_CLAIM,
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    JOB,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    AUTOSCALER,
    LEASE,
    EVENT,
    POD_MONITOR,
    PROMETHEUS_RULE,
    SCALED_OBJECT,
    LEADER_WORKER_SET,
    HTTP_ROUTE,
    INFERENCE_POOL,
    INFERENCE_SERVICE,
    ROLE_SCALER,
)
OPTIONAL = (  # a cluster may not have them
    POD_MONITOR,
    PROMETHEUS_RULE,
    SCALED_OBJECT,
    LEADER_WORKER_SET,
    HTTP_ROUTE,
    INFERENCE_POOL,
)
WORKLOADS = (DEPLOYMENT, LEADER_WORKER_SET)  # what makes pods of ours that serve
_BY_NAME = {(kind.api_version, kind.kind): kind for kind in ALL}


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """The kind of an object that says its apiVersion and kind; it is one of `ALL`."""
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
