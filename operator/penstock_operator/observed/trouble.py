"""Why a pod is not ready, or why a Deployment has none: the root cause, from what Kubernetes says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from penstock_operator import names
from penstock_operator.desired.storage import CACHE_VOLUME
from penstock_operator.kinds import LEADER_WORKER_SET
from penstock_operator.observed.seen import LoadSeen, Trouble
from penstock_operator.service import Manifest
from penstock_operator.timestamps import from_timestamp

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
HOPELESS_IMAGE = re.compile(
    r"not found|unauthorized|denied|forbidden|manifest unknown|invalid reference", re.IGNORECASE
)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
LONGEST = 512  # characters of somebody else's message
FULL_CACHE = re.compile(rf'volume "{CACHE_VOLUME}" exceeds the limit')
CREATING_SECONDS = 300.0  # for volumes, network and image, before that is a trouble
PROVING_SECONDS = 20.0  # of a download that failed and was started again, before it counts as cured
PROGRAM = "penstock: error: "  # before what the runtime says last
KILLED = 137  # exit code after SIGKILL

LOCKS_MEMORY = "; RDMA locks memory: label the namespace pod-security.kubernetes.io/enforce=privileged"

# What the runtime says when it gives up, and what it is called. The first that fits is it.
SAID = (
    (re.compile(r"is gated|or it is private|\b401\b|\b403\b|HF_TOKEN", re.IGNORECASE), "ModelAccessDenied", True),
    (re.compile(r"has no revision|no config\.json|not on the hub|is not a valid hub name"), "ModelNotFound", True),
    (re.compile(r"no room is left on the disk"), "ModelCacheFull", True),
    (re.compile(r"cannot write the model cache"), "ModelCacheReadOnly", True),
    (re.compile(r"cannot be fetched|hub cannot be reached", re.IGNORECASE), "ModelDownloadFailed", False),
    (re.compile(r"too little memory|refuses [\d,]+ MiB|out of memory", re.IGNORECASE), "OutOfMemory", True),
    (re.compile(r"of another model, type or layout|of revision '|no peer can read"), "HandshakeRefused", False),
    (re.compile(r"runs one worker per replica"), "ParallelismUnsupported", True),
    (re.compile(r"(^|\s)--[a-z][a-z-]+: |unknown flag --"), "WrongFlag", True),
)


def pod_trouble(pod: Manifest, now: float) -> Trouble | None:
    """What keeps a pod from being ready; None if nothing does, as far as one can see yet."""
    status, metadata = pod.get("status", {}), pod["metadata"]
    name = metadata["name"]
    if status.get("phase") in ("Failed", "Succeeded"):
        is_to_serve = names.ROLE in metadata.get("labels", {}) and "deletionTimestamp" not in metadata
        return _over(name, status, is_to_serve)
    for container in _containers(status):
        if (found := _container_trouble(name, container, now)) is not None:
            return found
        waiting = container.get("state", {}).get("waiting") or {}
        age = now - from_timestamp(pod["metadata"]["creationTimestamp"])
        if waiting.get("reason") == "ContainerCreating" and age > CREATING_SECONDS:
            minutes = round(CREATING_SECONDS / 60)
            told = f"the containers of pod {name} are not there after {minutes} minutes: is a volume missing?"
            return Trouble(reason="NotCreated", message=told)
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(
                reason="Unschedulable", message=f"pod {name} fits on no node: {_short(condition.get('message', ''))}"
            )
    if _is_given_up(status):
        return Trouble(reason="NodeUnreachable", message=f"the node of pod {name} does not answer")
    return None


def _is_given_up(status: Manifest) -> bool:
    """True if not the pod's node says that it is not ready, but Kubernetes, which hears nothing of that node.

    Only then is the pod not ready while its containers are, without a reason (such as readiness gates).
    """
    found = {one.get("type"): one for one in status.get("conditions", ())}
    ready, containers = found.get("Ready", {}), found.get("ContainersReady", {})
    is_contradicted = containers.get("status") == "True" and ready.get("status") == "False" and not ready.get("reason")
    return ready.get("status") == "Unknown" or is_contradicted


def _over(pod: str, status: Manifest, is_to_serve: bool) -> Trouble | None:
    """Of a pod that has ended. One that its node evicted has succeeded, too, if its containers ended well."""
    conditions = (one for one in status.get("conditions", ()) if one.get("type") == "DisruptionTarget")
    evicted = next((one for one in conditions if one.get("status") == "True"), None)
    if status["phase"] == "Succeeded" and evicted is None:
        told = "its node ended it, maybe because a volume of it grew too large: kubectl describe pod shows the Events"
        return Trouble(reason="PodEnded", message=f"pod {pod} is over: {told}") if is_to_serve else None
    told = status.get("message") or (evicted or {}).get("message") or "its containers ended"
    is_full = bool(FULL_CACHE.search(told))
    reason = "ModelCacheFull" if is_full else status.get("reason") or ("PodFailed" if evicted is None else "Evicted")
    return Trouble(reason=reason, message=f"pod {pod} failed: {_short(told)}", is_terminal=is_full)


def load_trouble(load: LoadSeen | None) -> Trouble | None:
    """Why a pod that is ready gets no requests."""
    if load is None or not load.refused:
        return None
    return Trouble(reason="HandshakeRefused", message=f"routers do not take pod {load.pod}: {_short(load.refused)}")


def workload_trouble(workload: Manifest) -> Trouble | None:
    """Why a Deployment, or a LeaderWorkerSet, cannot make pods: a quota, or a policy that refuses them."""
    name = workload["metadata"]["name"]
    if workload.get("kind") == LEADER_WORKER_SET.kind:
        return _group_trouble(name, workload)
    for condition in workload.get("status", {}).get("conditions", ()):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            told = _short(condition.get("message", ""))
            hint = LOCKS_MEMORY if "PodSecurity" in told and "IPC_LOCK" in told else ""
            return Trouble(reason="PodsRefused", message=f"Deployment {name}: {told}{hint}")
    return None


def _group_trouble(name: str, workload: Manifest) -> Trouble | None:
    """Groups that are missing: nobody looks at the set, or its pods are refused, which only Events tell."""
    status, wanted = workload.get("status"), workload.get("spec", {}).get("replicas", 1)
    made = (status or {}).get("replicas", 0)
    if made >= wanted:
        return None
    if not status:
        message = f"LeaderWorkerSet {name} makes no pods yet: its controller has not looked at it; does it run?"
    else:
        message = f"LeaderWorkerSet {name} has made {made} of {wanted} groups: `kubectl describe statefulset {name}`"
    return Trouble(reason="GroupsNotMade", message=message)


def route_trouble(route: Manifest) -> Trouble | None:
    """Why a Gateway does not lead to the service, by the status that its controller gives an HTTPRoute."""
    for parent in route.get("status", {}).get("parents", ()):
        gateway = parent.get("parentRef", {}).get("name", "")
        for condition in parent.get("conditions", ()):
            if condition.get("type") in ("Accepted", "ResolvedRefs") and condition.get("status") == "False":
                why = f"{condition.get('reason', '')}, {_short(condition.get('message', ''))}"
                return Trouble(reason="RouteRefused", message=f"Gateway {gateway} does not lead here: {why}")
    return None


def _containers(status: Manifest) -> Iterator[Manifest]:
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _container_trouble(pod: str, container: Manifest, now: float) -> Trouble | None:
    waiting = container.get("state", {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in IMAGE_REASONS:
        is_hopeless = reason in ("InvalidImageName", "ErrImageNeverPull") or bool(HOPELESS_IMAGE.search(message))
        told = f"pod {pod} cannot get its image {container.get('image', '')}: {_short(message or reason)}"
        return Trouble(reason="ImagePullFailed", message=told, is_terminal=is_hopeless)
    if reason in CONFIG_REASONS:
        return Trouble(reason="ConfigMissing", message=f"pod {pod} cannot start: {_short(message or reason)}")
    if container.get("ready") and not _is_unproven(container, now):
        return None
    last = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
    if last and (last.get("exitCode") or reason == "CrashLoopBackOff"):
        return _ended(pod, last, container.get("restartCount", 0))
    return None


def _is_unproven(container: Manifest, now: float) -> bool:
    """True of a download that has not run long enough to say that what ended it is over: it is ready from its start."""
    since = (container.get("state", {}).get("running") or {}).get("startedAt")
    is_download = container.get("name") == names.DOWNLOAD
    return is_download and since is not None and now - from_timestamp(since) < PROVING_SECONDS


def _ended(pod: str, last: Manifest, num_restarts: int) -> Trouble:
    """Of a container that ended badly: what it said, else how it ended."""
    said = last.get("message", "").strip()
    if last.get("reason") == "OOMKilled":
        message = f"pod {pod} was killed for using more memory than its limit: raise resources.limits.memory"
        return Trouble(reason="OutOfMemory", message=message)
    for pattern, reason, is_terminal in SAID:
        if pattern.search(said):
            return Trouble(reason=reason, message=f"pod {pod}: {_last_line(said, pattern)}", is_terminal=is_terminal)
    code = last.get("exitCode")
    how = f"ended with exit code {code}" if code != KILLED else "was killed (SIGKILL)"
    told = f": {_short(said.splitlines()[-1])}" if said else ""
    return Trouble(reason="CrashLoop", message=f"pod {pod} {how}, {num_restarts} restarts{told}")


def _last_line(said: str, pattern: re.Pattern[str]) -> str:
    """The last line that fits, which is the nearest to the end."""
    lines = [line for line in said.splitlines() if pattern.search(line)]
    return _short(lines[-1] if lines else said).removeprefix(PROGRAM)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
