"""From what is there to what the status says. As kstatus has it, Reconciling and Stalled are False when all is done."""

from __future__ import annotations

import msgspec

from penstock_operator import names
from penstock_operator.api.status import (
    DrainingPod,
    InferenceServiceStatus,
    ModelStatus,
    RoleScalerStatus,
    RoleStatus,
)
from penstock_operator.api.v1alpha1 import Autoscaling
from penstock_operator.desired.children import Children
from penstock_operator.desired.network import front_port, has_tls
from penstock_operator.errors import OperatorError, SpecError
from penstock_operator.observed.seen import Observed, ScalingSeen
from penstock_operator.plan.planner import Plan
from penstock_operator.service import Manifest, Service
from penstock_operator.status.conditions import found, with_times
from penstock_operator.status.standing import Standing
from penstock_operator.status.verdicts import findings
from penstock_operator.timestamps import to_timestamp

LETTERS = {names.BOTH: "", names.PREFILL: "P", names.DECODE: "D"}
MAX_DRAINING = 128


def build_status(
    service: Service,
    children: Children | None,
    observed: Observed,
    plan: Plan | None,
    problem: OperatorError | None,
    now: float,
) -> Manifest:
    """The status of an InferenceService. `children` and `plan` are None where `problem` kept us from having them."""
    standing = Standing(service=service, children=children, observed=observed, plan=plan, problem=problem)
    roles = {role: role_status(standing, role) for role in service.roles}
    status = InferenceServiceStatus(
        observed_generation=service.generation,
        conditions=with_times(findings(standing), service.status, generation=service.generation, now=now),
        url=url_of(service),
        revision="" if children is None else children.revision,
        summary=" ".join(f"{one.ready}/{one.desired}{LETTERS[role]}" for role, one in roles.items()),
        roles=roles,
        router=router_status(standing),
        model=model_status(standing),
        draining=draining(observed),
    )
    built: Manifest = msgspec.to_builtins(status)
    if service.spec.autoscaling is not None:
        built["autoscaling"] = autoscaling_status(service.spec.autoscaling, service.status, observed.scaling)
    return built


def build_refused_status(raw: Manifest, error: SpecError, now: float) -> Manifest:
    """The status of an InferenceService whose spec nobody can read: what it said before, and that."""
    metadata, before = raw["metadata"], raw.get("status", {})
    stalled = [
        found("Reconciling", False, error.reason, "nothing is done until the spec is changed"),
        found("Stalled", True, error.reason, str(error)),
    ]
    kept = [one for one in before.get("conditions", ()) if one.get("type") not in ("Reconciling", "Stalled")]
    if not any(one.get("type") == "Ready" for one in kept):
        stalled.insert(0, found("Ready", False, error.reason, str(error)))
    generation = metadata.get("generation", 0)
    conditions = with_times(stalled, before, generation=generation, now=now)
    return {
        **before,
        "observedGeneration": generation,
        "conditions": [*kept, *msgspec.to_builtins(conditions)],
    }


def build_scaler_status(service: Service, role: str, observed: Observed, plan: Plan) -> Manifest:
    """The status of a role's RoleScaler: what an autoscaler divides its metrics by, and what became of its request."""
    target = plan.targets[role]
    labels = {names.SERVICE: service.key.name, names.ROLE: role}  # of all revisions
    scaler = observed.scalers.get(role)
    status = RoleScalerStatus(
        observed_generation=-1 if scaler is None else scaler.manifest["metadata"].get("generation", 0),
        replicas=sum(pod.is_serving for pod in observed.pods if pod.role == role),
        selector=",".join(f"{label}={value}" for label, value in labels.items()),
        desired=target.replicas,
        limited_by=target.limited_by,
    )
    built: Manifest = msgspec.to_builtins(status)
    return built


def url_of(service: Service) -> str:
    """Of the OpenAI API, for clients in the cluster."""
    is_tls, port = has_tls(service), front_port(service)
    suffix = "" if port == (443 if is_tls else 80) else f":{port}"
    return f"{'https' if is_tls else 'http'}://{service.key.name}.{service.key.namespace}.svc{suffix}/v1"


def role_status(standing: Standing, role: str) -> RoleStatus:
    """Of all revisions of a role."""
    pods = standing.pods(role)
    return RoleStatus(
        desired=standing.desired(role),
        ready=standing.num_ready(role),
        replicas=len(pods),
        updated=sum(pod.revision == standing.revision for pod in pods),
        revision=standing.revision,
    )


def autoscaling_status(autoscaling: Autoscaling, before: Manifest, scaling: ScalingSeen | None) -> Manifest:
    """What was decided last; while the autoscaler has said nothing, what it had said before."""
    told: Manifest = {"mode": autoscaling.mode}
    if scaling is not None:
        told["lastDecisions"] = msgspec.to_builtins(scaling.decisions)
    elif "lastDecisions" in before.get("autoscaling", {}):
        told["lastDecisions"] = before["autoscaling"]["lastDecisions"]
    return told


def router_status(standing: Standing) -> RoleStatus | None:
    """None where there is no router."""
    if not standing.service.has_router:
        return None
    seen = standing.observed.router
    if seen is None:
        return RoleStatus(desired=standing.num_routers, ready=0)
    return RoleStatus(
        desired=standing.num_routers, ready=seen.num_available, replicas=seen.num_pods, updated=seen.num_updated
    )


def model_status(standing: Standing) -> ModelStatus | None:
    """How far the shared cache is; None where every pod has its own."""
    if not standing.has_download:
        return None
    if standing.is_downloaded:
        return ModelStatus(phase="Ready")
    trouble = standing.cause(names.DOWNLOAD)
    if trouble is not None:
        return ModelStatus(phase="Failed", message=trouble.message)
    job = standing.download
    if job is None or not job.get("status", {}).get("active"):
        return ModelStatus(phase="Pending")
    seen = standing.observed.download
    if seen is None:
        return ModelStatus(phase="Downloading")
    return ModelStatus(phase="Downloading", bytes_done=seen.done, bytes_total=seen.total)


def draining(observed: Observed) -> tuple[DrainingPod, ...]:
    """Pods that were told to finish."""
    pods = []
    for pod in observed.pods:
        if pod.drained_since is not None:
            load = observed.loads.get(pod.name)
            requests = None if load is None else load.running + load.waiting
            pods.append(DrainingPod(pod=pod.name, since=to_timestamp(pod.drained_since), requests=requests))
    return tuple(pods[:MAX_DRAINING])
