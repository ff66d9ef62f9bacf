"""What the objects of a service tell a person, as lines and tables. Pure: objects are as JSON has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.commands.k8s_hints import HINTS
from penstock_operator import names
from penstock_operator.observed.trouble import pod_trouble
from penstock_operator.timestamps import from_timestamp

BAD, WAITING, GOOD, PLAIN, FAINT = "red", "yellow", "green", "", "dim"
NUM_EVENTS, NUM_DECISIONS = 12, 8
STALE_SECONDS = 60.0  # after which a spec that the operator has not seen is remarkable
NORMAL = {"Reconciling": "False", "Stalled": "False"}  # all other conditions should be True


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence."""

    text: str
    style: str = PLAIN


@dataclass(frozen=True, slots=True)
class Row:
    """Of a table."""

    cells: tuple[str, ...]
    style: str = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading with lines, a table, or both."""

    heading: str
    lines: Sequence[Line] = ()
    columns: tuple[str, ...] = ()
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A service with all that belongs to it."""

    service: dict[str, Any]
    pods: list[dict[str, Any]]
    scalers: list[dict[str, Any]]
    events: list[dict[str, Any]]  # of the whole namespace
    hidden: list[str]  # kinds that the reader may not see
    now: float  # seconds since the epoch

    @property
    def name(self) -> str:
        """Of the service."""
        return str(self.service["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Of the service."""
        return str(self.service["metadata"]["namespace"])

    @property
    def status(self) -> dict[str, Any]:
        """What the operator said; empty if it said nothing."""
        return self.service.get("status") or {}

    @property
    def conditions(self) -> dict[str, dict[str, Any]]:
        """By type."""
        return {one["type"]: one for one in self.status.get("conditions", ())}


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


def head_of(case: Case) -> Section:
    """Which service it is, and whether it is ready."""
    ready, spec = case.conditions.get("Ready", {}), case.service["spec"]
    state = {"True": "ready", "False": "NOT READY"}.get(ready.get("status", ""), "not known to be ready")
    since = age_of(ready.get("lastTransitionTime"), case.now)
    lines = [Line(f"{state} for {since}: {ready['message']}", style_of("Ready", ready))] if ready else []
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
                "kubectl get pods -A -l app.kubernetes.io/name=penstock",
                BAD,
            )
    if "deletionTimestamp" in metadata:
        yield Line("it is being deleted", WAITING)


def wrong_lines(case: Case) -> list[Line]:
    """Conditions that are not as they should be, then pods with what ails them."""
    lines = [
        Line(
            f"{kind} is {one['status']} for {age_of(one.get('lastTransitionTime'), case.now)}, {one['reason']}: "
            f"{one.get('message', '')}",
            style_of(kind, one),
        )
        for kind, one in case.conditions.items()
        if kind not in ("Ready", "ScalingActive") and one["status"] != NORMAL.get(kind, "True")
    ]
    told = "\n".join(line.text for line in lines)
    lines += [Line(message, BAD) for _, _, message in troubles(case) if message not in told]
    lines += [
        Line(
            f"pod {one['pod']} takes no new requests since {age_of(one['since'], case.now)}, "
            f"finishes {one.get('requests', 'those')} that it has, and then ends",
            FAINT,
        )
        for one in case.status.get("draining", ())
    ]
    return lines or [Line("nothing that the operator or Kubernetes tells of", GOOD)]


def todo_lines(case: Case) -> list[Line]:
    """A hint for each reason that is about, once."""
    found: dict[str, str] = {}
    for pod, reason, _ in troubles(case):
        role = pod["metadata"].get("labels", {}).get(names.COMPONENT, "decode")
        told = {
            "pod": pod["metadata"]["name"],
            "namespace": case.namespace,
            "role": "decode" if role == "both" else role,
        }
        if reason in HINTS:
            found.setdefault(reason, HINTS[reason].format(**told))
    for one in case.conditions.values():
        if one["reason"] in HINTS and one["reason"] not in found and "{pod}" not in HINTS[one["reason"]]:
            found[one["reason"]] = HINTS[one["reason"]].format(namespace=case.namespace, role="decode")
    return [Line(hint) for hint in found.values()]


def scaling_lines(case: Case) -> list[Line]:
    """Who asks for how many, and what became of it."""
    lines = []
    for scaler in case.scalers:
        role, asked, told = scaler["spec"]["role"], scaler["spec"]["replicas"], scaler.get("status") or {}
        part = "decode" if role == "both" else role  # of the spec
        desired, limit = told.get("desired", asked), told.get("limitedBy", "")
        fixed = (case.service["spec"].get(part) or {}).get("replicas")
        text = f"{role}: {desired}, because spec.{part}.replicas says so"
        if fixed is None:
            limited = f", limited by {limit}" if limit else ""
            text = f"{role}: {desired} wanted{limited}; RoleScaler {scaler['metadata']['name']} asks for {asked}"
        lines.append(Line(text))
    if (active := case.conditions.get("ScalingActive")) is not None:
        lines.append(Line(f"{active['reason']}: {active.get('message', '')}", FAINT))
    return lines or [Line("there are no RoleScalers", WAITING)]


def event_lines(case: Case) -> list[Line]:
    """Of the service and its objects, the newest first."""
    own = {case.name} | {one["metadata"]["name"] for one in (*case.pods, *case.scalers)}
    found = []
    for event in case.events:
        about = event.get("regarding", {})
        is_ours = about.get("name") in own or str(about.get("name", "")).startswith(f"{case.name}-")
        if is_ours and (event.get("type") == "Warning" or about.get("kind") == "InferenceService"):
            series = event.get("series") or {}
            stamp = series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("eventTime")
            found.append((moment_of(stamp, case.now), event, stamp))
    found.sort(key=lambda one: -one[0])
    return [
        Line(
            f"{age_of(stamp, case.now)} ago: {event.get('regarding', {}).get('kind', '')} "
            f"{event.get('regarding', {}).get('name', '')}: {event.get('reason', '')}: {event.get('note', '')}",
            WAITING if event.get("type") == "Warning" else PLAIN,
        )
        for _, event, stamp in found[:NUM_EVENTS]
    ]


def troubles(case: Case) -> list[tuple[dict[str, Any], str, str]]:
    """Pods with the reason and the sentence of what ails them."""
    found = [(pod, pod_trouble(pod, case.now)) for pod in case.pods]
    return [(pod, trouble.reason, trouble.message) for pod, trouble in found if trouble is not None]


def pod_row(pod: dict[str, Any], case: Case) -> Row:
    """One pod."""
    metadata, status = pod["metadata"], pod.get("status", {})
    trouble = pod_trouble(pod, case.now)
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
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


def style_of(kind: str, condition: dict[str, Any]) -> str:
    """The colour of a condition."""
    if not condition or condition["status"] == "Unknown":
        return FAINT
    if condition["status"] == NORMAL.get(kind, "True"):
        return GOOD
    return WAITING if kind in ("Reconciling", "ScalingActive") else BAD


def moment_of(stamp: str | None, otherwise: float) -> float:
    """Seconds since the epoch."""
    return otherwise if stamp is None else from_timestamp(stamp)


def age_of(stamp: str | None, now: float) -> str:
    """`90s`, `12m`, `5h`, `3d`; a question mark where there is no time."""
    if stamp is None:
        return "?"
    seconds = max(0, int(now - moment_of(stamp, now)))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
