"""`penstock k8s explain`: what is wrong with a service, what to do, and why it has as many pods as it has."""

from __future__ import annotations

from typing import Any

from penstock.commands.k8s_case import (
    BAD,
    FAINT,
    GOOD,
    NORMAL,
    PLAIN,
    WAITING,
    Case,
    Line,
    Section,
    age_of,
    duration_of,
    is_pod_ready,
    moment_of,
)
from penstock.commands.k8s_hints import HINTS
from penstock.commands.k8s_status import head_of
from penstock_operator import names
from penstock_operator.kinds import INFERENCE_SERVICE

NUM_EVENTS, NUM_DECISIONS = 10, 8
CONSEQUENCES = ("Loading", "NoPods", "Starting", "Progressing", "PodsNotReady", "RouterNotReady")  # of other reasons
UNHEALTHY, STARTUP_PROBE = "Unhealthy", "Startup probe failed"  # of Events of the kubelet
STARTING = "kubectl -n {namespace} logs {pod} -f tells how far a pod is that starts"


def build_explanation(case: Case) -> list[Section]:
    """Why it is so, and what to do: what is wrong, who has how many pods and why, and what happened lately."""
    sections = [head_of(case), Section(heading="What is wrong", lines=wrong_lines(case))]
    if todo := todo_lines(case):
        sections.append(Section(heading="What to do", lines=todo))
    sections.append(Section(heading="Why this number of pods", lines=scaling_lines(case)))
    if decisions := case.status.get("autoscaling", {}).get("lastDecisions", ()):
        lines = [
            Line(f"{age_of(one.get('time'), case.now)} ago: {one.get('message', '')}")
            for one in decisions[:NUM_DECISIONS]
        ]
        sections.append(Section(heading="What the autoscaler decided", lines=lines))
    if events := event_lines(case):
        sections.append(Section(heading="What happened lately", lines=events))
    if case.hidden:
        lines = [Line(f"you have no right to list {' and '.join(case.hidden)}", FAINT)]
        sections.append(Section(heading="Not seen", lines=lines))
    return sections


def wrong_lines(case: Case) -> list[Line]:
    """What is not as it should be, each reason once; then pods, with what else ails them, that start, and that end."""
    groups: dict[str, list[str]] = {}
    for kind, one in case.conditions.items():
        if kind != "ScalingActive" and one["status"] not in (NORMAL.get(kind, "True"), "Unknown"):
            groups.setdefault(one["reason"], []).append(kind)
    causes = {reason: kinds for reason, kinds in groups.items() if reason not in CONSEQUENCES}
    causes = causes or dict(list(groups.items())[:1])  # the first is Ready's: nothing but time is missing
    lines = []
    for reason, kinds in causes.items():
        said = [case.conditions[kind] for kind in kinds]
        message = max((one.get("message", "") for one in said), key=len)
        oldest = min(moment_of(one.get("lastTransitionTime"), case.now) for one in said)
        style = WAITING if kinds == ["Reconciling"] else BAD
        lines.append(Line(f"{reason} for {duration_of(case.now - oldest)}: {message}", style))
    told = "\n".join(line.text for line in lines)
    lines += [Line(trouble.message, BAD) for _, trouble in case.troubles if trouble.message not in told]
    lines += [starting_line(pod, case) for pod in starting(case)]
    lines += [
        Line(
            f"pod {one['pod']} takes no new requests since {age_of(one['since'], case.now)}, "
            f"finishes {one.get('requests', 'those')} that it has, and then ends",
            FAINT,
        )
        for one in case.status.get("draining", ())
    ]
    if not case.conditions:
        lines.append(Line("no operator has said anything of it", WAITING))
    return lines or [Line("nothing that the operator or Kubernetes tells of", GOOD)]


def starting_line(pod: dict[str, Any], case: Case) -> Line:
    """How long it takes, and what Kubernetes fails at meanwhile."""
    metadata = pod["metadata"]
    since = age_of(metadata.get("creationTimestamp"), case.now)
    warning = warning_of(pod, case)
    told = f": {warning.get('reason', '')}: {warning.get('note', '')}" if warning else ""
    return Line(f"pod {metadata['name']} starts since {since}{told}", BAD if warning else WAITING)


def warning_of(pod: dict[str, Any], case: Case) -> dict[str, Any]:
    """The newest Event that warns of a pod which starts; empty if none does but failing probes, as they do then."""
    name = pod["metadata"]["name"]
    found = [
        event
        for event in case.events
        if event.get("regarding", {}).get("name") == name
        and event.get("type") == "Warning"
        and event.get("reason") != UNHEALTHY
    ]
    return max(found, key=lambda event: moment_of(stamp_of(event), case.now), default={})


def starting(case: Case) -> list[dict[str, Any]]:
    """Pods that are not ready yet, of which nothing bad is known."""
    ailing = {pod["metadata"]["name"] for pod, _ in case.troubles}
    return [
        pod
        for pod in case.pods
        if not is_pod_ready(pod)
        and pod["metadata"]["name"] not in ailing
        and "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") in ("Pending", "Running")
    ]


def todo_lines(case: Case) -> list[Line]:
    """A hint for each reason that is about, once."""
    hints: dict[str, str] = {}
    for pod, trouble in case.troubles:
        if trouble.reason in HINTS:
            hints.setdefault(trouble.reason, filled(HINTS[trouble.reason], case, pod))
    for one in case.conditions.values():
        hint = HINTS.get(one["reason"], "")
        if hint and one["reason"] not in hints and "{pod}" not in hint:
            hints[one["reason"]] = filled(hint, case)
    if any((scaler.get("status") or {}).get("limitedBy") in ("max", "gpuBudget") for scaler in case.scalers):
        hints.setdefault("Limited", filled(HINTS["Limited"], case))
    for pod in starting(case):
        if warning_of(pod, case).get("reason") == "FailedMount":
            hints.setdefault("NotCreated", filled(HINTS["NotCreated"], case, pod))
        elif not hints:
            hints["Starting"] = filled(STARTING, case, pod)
    return [Line(hint) for hint in hints.values()]


def filled(hint: str, case: Case, pod: dict[str, Any] | None = None) -> str:
    """A hint with the names of what it is about."""
    metadata = {} if pod is None else pod["metadata"]
    role = metadata.get("labels", {}).get(names.COMPONENT, names.DECODE)
    told = {"pod": metadata.get("name", ""), "namespace": case.namespace, "name": case.name}
    return hint.format(**told, role=names.DECODE if role == names.BOTH else role)


def scaling_lines(case: Case) -> list[Line]:
    """Who asks for how many, and what became of it."""
    lines = []
    for scaler in case.scalers:
        role, asked, told = scaler["spec"]["role"], scaler["spec"]["replicas"], scaler.get("status") or {}
        part = names.DECODE if role == names.BOTH else role  # of the spec
        desired, limit = told.get("desired", asked), told.get("limitedBy", "")
        fixed = (case.service["spec"].get(part) or {}).get("replicas")
        who = f"; RoleScaler {scaler['metadata']['name']} asks for {asked}{written_by(scaler, case.now)}"
        limited = f", limited by {limit}" if limit else ""
        text = f"{role}: {desired} wanted{limited}{who}"
        if limit == "suspend":
            text = f"{role}: {desired}, because spec.suspend is set"
        elif fixed is not None:
            text = f"{role}: {desired}, because spec.{part}.replicas says so{who if asked != desired else ''}"
        lines.append(Line(text))
    if (active := case.conditions.get("ScalingActive")) is not None:
        lines.append(Line(f"{active['reason']}: {active.get('message', '')}", FAINT))
    return lines or [Line("there are no RoleScalers", WAITING)]


def written_by(scaler: dict[str, Any], now: float) -> str:
    """Who set the number last, and when, if the API server noted that: of a write through /scale it notes no time."""
    notes = (
        (one.get("time", ""), one.get("manager", ""))
        for one in scaler["metadata"].get("managedFields", ())
        if "f:replicas" in one.get("fieldsV1", {}).get("f:spec", {})
    )
    time, manager = max(notes, default=("", ""))
    when = f" {age_of(time, now)} ago" if time else ""
    return f", set by {manager}{when}" if manager else ""


def event_lines(case: Case) -> list[Line]:
    """Of the service and its objects, the newest first, and each object's reason once."""
    well = {pod["metadata"]["name"] for pod in case.pods if is_pod_ready(pod)}
    own = {case.name} | {one["metadata"]["name"] for one in (*case.pods, *case.scalers)}
    newest: dict[tuple[str, ...], tuple[dict[str, Any], int]] = {}
    for event in sorted(case.events, key=lambda one: -moment_of(stamp_of(one), case.now)):
        about, reason, note = event.get("regarding", {}), event.get("reason", ""), event.get("note", "")
        name, is_told = str(about.get("name", "")), about.get("kind") == INFERENCE_SERVICE.kind
        if reason == UNHEALTHY and (name in well or note.startswith(STARTUP_PROBE)):
            continue  # that is how pods start
        if (name in own or name.startswith(f"{case.name}-")) and (is_told or event.get("type") == "Warning"):
            key = (name, reason, note) if is_told else (name, reason)
            first, count = newest.get(key, (event, 0))
            newest[key] = (first, count + 1)
    return [event_line(event, count, case) for event, count in list(newest.values())[:NUM_EVENTS]]


def event_line(event: dict[str, Any], count: int, case: Case) -> Line:
    """When it was last, of what, and what is said."""
    about = event.get("regarding", {})
    before = f", and {count - 1} times before" if count > 1 else ""
    told = f"{about.get('kind', '')} {about.get('name', '')}: {event.get('reason', '')}: {event.get('note', '')}"
    style = WAITING if event.get("type") == "Warning" else PLAIN
    return Line(f"{age_of(stamp_of(event), case.now)} ago{before}: {told}", style)


def stamp_of(event: dict[str, Any]) -> str | None:
    """When it was last."""
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("eventTime")
