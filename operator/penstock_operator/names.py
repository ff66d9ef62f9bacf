"""Names of children, labels, annotations and ports. Nothing else makes them up."""

from __future__ import annotations

from dataclasses import dataclass

FIELD_MANAGER = "penstock-operator"

# Labels of every child, and of pods.
MANAGED_BY, MANAGER = "app.kubernetes.io/managed-by", "penstock-operator"
APP = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"  # a role, or router
SERVICE = "penstock.dev/service"
ROLE = "penstock.dev/role"  # prefill, decode, both; not on the router
REVISION = "penstock.dev/revision"  # of a role's Deployment and its pods

# By these labels what makes pods knows its own, and is known.
SELECTING = (APP, INSTANCE, MANAGED_BY, SERVICE, COMPONENT, ROLE, REVISION)

# Annotations of children.
USER_HASH = "penstock.dev/user-hash"  # of what the user set; while it stays, the template is left alone
BASELINE = "penstock.dev/rollout-baseline"  # replicas of a revision when a rollout began to take from it
APPLIED = "penstock.dev/applied"  # digest of the manifest that was applied last
DRAINED = "penstock.dev/drained"  # of a pod that was told to drain: since when, RFC 3339
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

HTTP_PORT, INTERNAL_PORT = 8000, 8001  # of a pod; the router has the first alone
KEY_FOLDER = "/etc/penstock/key"  # mounted from the service's Secret
KEY_FILE = "key"
CACHE_FOLDER = "/var/cache/penstock"  # PENSTOCK_CACHE of every pod

BOTH, PREFILL, DECODE, ROUTER = "both", "prefill", "decode", "router"
DOWNLOAD = "download"  # component of the Job that fills a shared volume, and of its pod


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An InferenceService."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def deployment(service: str, role: str, revision: str) -> str:
    """Of a role's revision."""
    return f"{service}-{role}-{revision}"


def of_role(service: str, role: str) -> str:
    """RoleScaler, headless Service and disruption budget of a role."""
    return f"{service}-{role}"


def router(service: str) -> str:
    """The router's Deployment and disruption budget."""
    return f"{service}-router"


def network_policy(service: str) -> str:
    """Of the pods of all roles; the router's is named like its Deployment."""
    return f"{service}-pods"


def service_account(service: str) -> str:
    """Of all pods."""
    return f"{service}-penstock"


def key_secret(uid: str) -> str:
    """Named with the InferenceService's UID: nobody can have put another Secret there for us to use."""
    return f"penstock-key-{uid}"


def model_cache(service: str) -> str:
    """The shared volume's claim."""
    return f"{service}-model"


def picker(service: str) -> str:
    """Service of the endpoint picker of an InferencePool; the user's own."""
    return f"{service}-epp"


def download(service: str, digest: str) -> str:
    """Job that fills the shared volume."""
    return f"{service}-model-{digest}"


def common_labels(service: str) -> dict[str, str]:
    """Of every child."""
    return {APP: "penstock", INSTANCE: service, MANAGED_BY: MANAGER, SERVICE: service}


def role_labels(service: str, role: str) -> dict[str, str]:
    """Of what belongs to a role, in all its revisions; the selector of its headless Service."""
    return {**common_labels(service), COMPONENT: role, ROLE: role}


def worker_labels(service: str, role: str) -> dict[str, str]:
    """Of the pods of a replica beside its leader, which alone is behind Services and in the number of replicas."""
    return role_labels(service, f"{role}-worker")


def router_labels(service: str) -> dict[str, str]:
    """Of the router and its pods."""
    return {**common_labels(service), COMPONENT: ROUTER}
