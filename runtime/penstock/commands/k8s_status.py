"""`penstock k8s status`: how services are, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from penstock.commands.k8s_case import (
    BAD,
    FAINT,
    GOOD,
    WAITING,
    Case,
    Line,
    Row,
    Section,
    age_of,
    is_pod_ready,
    moment_of,
    style_of,
)
from penstock_operator import names
from penstock_operator.observed.trouble import pod_trouble

STALE_SECONDS = 60.0  # after which a spec that the operator has not seen is remarkable


def build_overview(services: Iterable[dict[str, Any]], now: float, *, where: str) -> list[Section]:
    """One row for each service."""
    rows = []
    for service in sorted(services, key=lambda one: (one["metadata"]["namespace"], one["metadata"]["name"])):
        case = Case(service=service, pods=[], scalers=[], events=[], hidden=[], now=now)
        ready = case.conditions.get("Ready", {})
        metadata = service["metadata"]
        rows.append(
            Row(
                (
                    case.namespace,
                    case.name,
                    service["spec"]["model"]["source"],
                    case.status.get("summary", ""),
                    ready.get("reason", "Unknown") if ready else "not seen by an operator",
                    age_of(metadata.get("creationTimestamp"), now),
                ),
                style_of("Ready", ready),
            )
        )
    if not rows:
        return [Section(heading=f"No InferenceService in {where}")]
    columns = ("namespace", "name", "model", "pods", "state", "age")
    return [
        Section(
            heading="1 InferenceService" if len(rows) == 1 else f"{len(rows)} InferenceServices",
            columns=columns,
            rows=rows,
        )
    ]


def build_status(case: Case) -> list[Section]:
    """How it is: numbers, pods, conditions."""
    status = case.status
    sections = [head_of(case)]
    roles = {**status.get("roles", {}), **({"router": status["router"]} if status.get("router") else {})}
    rows = [
        Row(
            (
                role,
                str(one.get("ready", 0)),
                str(one.get("desired", 0)),
                str(one.get("replicas", "")),
                one.get("revision", ""),
            ),
            GOOD if one.get("ready", 0) >= one.get("desired", 0) else WAITING,
        )
        for role, one in roles.items()
    ]
    if rows:
        sections.append(Section(heading="Roles", columns=("role", "ready", "wanted", "pods", "revision"), rows=rows))
    if case.pods:
        columns = ("pod", "role", "state", "restarts", "node", "age")
        sections.append(Section(heading="Pods", columns=columns, rows=[pod_row(pod, case) for pod in case.pods]))
    turned = [
        Row((kind, one["status"], one["reason"], one.get("message", "")), style_of(kind, one))
        for kind, one in case.conditions.items()
    ]
    if turned:
        sections.append(Section(heading="Conditions", columns=("condition", "status", "reason", "what"), rows=turned))
    return sections


def head_of(case: Case) -> Section:
    """Which service it is, and whether it is ready."""
    ready, spec = case.conditions.get("Ready", {}), case.service["spec"]
    state = {"True": "ready", "False": "NOT READY"}.get(ready.get("status", ""), "not known to be ready")
    since = age_of(ready.get("lastTransitionTime"), case.now)
    told = ready.get("message") if case.is_ready else ready.get("reason")
    lines = [Line(f"{state} for {since}: {told}", style_of("Ready", ready))] if ready else []
    where = f", {case.status['url']}" if case.status.get("url") else ""
    lines.append(Line(f"model {spec['model']['source']}{where}", FAINT))
    lines += list(unseen_lines(case))
    return Section(heading=f"{case.name} ({case.namespace})", lines=lines)


def unseen_lines(case: Case) -> Iterable[Line]:
    """Signs that no operator looks after it."""
    seen, metadata = case.status.get("observedGeneration", -1), case.service["metadata"]
    if seen < metadata.get("generation", 0):
        age = case.now - moment_of(metadata.get("creationTimestamp"), case.now)
        if seen >= 0 or age > STALE_SECONDS:
            word = "the newest spec" if seen >= 0 else "this service"
            yield Line(
                f"no operator has seen {word} yet: is one running? "
                "kubectl get pods -A -l app.kubernetes.io/name=penstock-operator",
                BAD,
            )
    if "deletionTimestamp" in metadata:
        yield Line("it is being deleted", WAITING)


def pod_row(pod: dict[str, Any], case: Case) -> Row:
    """One pod."""
    metadata, status = pod["metadata"], pod.get("status", {})
    trouble = pod_trouble(pod, case.now)
    ready = is_pod_ready(pod)
    state = "ready" if ready else status.get("phase", "Unknown").lower()
    style = GOOD if ready else WAITING
    if trouble is not None:
        state, style = trouble.reason, BAD
    if "deletionTimestamp" in metadata:
        state, style = "ending", FAINT
    restarts = sum(one.get("restartCount", 0) for one in status.get("containerStatuses", ()))
    role = metadata.get("labels", {}).get(names.COMPONENT, "")
    node = pod.get("spec", {}).get("nodeName", "")
    return Row(
        (metadata["name"], role, state, str(restarts), node, age_of(metadata.get("creationTimestamp"), case.now)), style
    )
