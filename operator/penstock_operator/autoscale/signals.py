"""What a service says of its work at one moment, per role. Plain data; `scrape.py` fetches what it is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.internal.fleet import Fleet, FleetEndpoint
from penstock_operator.names import ROUTER
from penstock_operator.observed.seen import LoadSeen, PodSeen

ANSWERING = ("ready", "draining", "loading")  # states in which a pod's figures are its own
REFUSED = "refused"  # it answers, and is not one of the service: another key, model or role


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLoad:
    """A pod that takes new requests."""

    running: int
    waiting: int
    queued_tokens: int  # prompt tokens still to compute
    kv_usage: float  # 0 to 1
    prefill_rate: float | None  # tokens/s
    prompt_tokens: int  # computed in its life
    output_tokens: int  # likewise
    max_num_seqs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleLoad:
    """All pods of a role."""

    pods: Mapping[str, PodLoad]  # by name: those that take new requests
    num_starting: int  # pods that are there, not leaving, and not ready
    missing: tuple[str, ...]  # pods that are ready, as Kubernetes says, and did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """A service."""

    at: float  # seconds since the epoch
    roles: Mapping[str, RoleLoad]
    has_router: bool  # at least one router answered
    is_router_missing: bool  # one is ready, as Kubernetes says, and did not answer: `held` may be too small
    held: int  # requests that wait in routers
    in_flight: int  # requests that routers have and that are not answered to their end
    finished: int  # answers that went out to their end, in the lives of the routers that answered
    rejected: int  # requests that they refused, likewise

    def is_quiet_since(self, before: Signals) -> bool:
        """True if nothing was asked of the routers in between."""
        return (self.finished, self.rejected) == (before.finished, before.rejected)

    @property
    def is_idle(self) -> bool:
        """True if it is certain that nobody wants anything."""
        quiet = all(not pod.running and not pod.waiting for role in self.roles.values() for pod in role.pods.values())
        certain = (
            self.has_router and not self.is_router_missing and not any(role.missing for role in self.roles.values())
        )
        return certain and quiet and not self.held and not self.in_flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What came back from the pods that were asked; who did not answer is not in it."""

    at: float  # seconds since the epoch
    routers: Mapping[str, Fleet]  # by pod name
    pods: Mapping[str, FleetEndpoint]  # by pod name: asked directly, where no router is there to tell

    def endpoints(self) -> dict[str, FleetEndpoint]:
        """Pods by name, as whoever knows them best tells it."""
        told = [one for fleet in self.routers.values() for one in fleet.endpoints if one.name]
        found: dict[str, FleetEndpoint] = {}
        for endpoint in told:
            if endpoint.name not in found or endpoint.state in ANSWERING:
                found[endpoint.name] = endpoint
        return found | dict(self.pods)


def build_signals(scrape: Scrape, pods: Iterable[PodSeen], roles: Sequence[str]) -> Signals:
    """What a scrape means, beside the pods that Kubernetes knows: those decide who is missing."""
    pods = [pod for pod in pods if not pod.is_leaving]
    endpoints = scrape.endpoints()
    routers = [pod.name for pod in pods if pod.role == ROUTER and pod.is_ready]
    totals = [fleet.router for fleet in scrape.routers.values() if fleet.router is not None]
    return Signals(
        at=scrape.at,
        roles={role: _role_load([pod for pod in pods if pod.role == role], endpoints) for role in roles},
        has_router=bool(totals),
        is_router_missing=any(name not in scrape.routers for name in routers),
        held=sum(total.held for total in totals),
        in_flight=sum(total.in_flight for total in totals),
        finished=sum(total.completed for total in totals),
        rejected=sum(total.rejected for total in totals),
    )


def loads_seen(scrape: Scrape) -> dict[str, LoadSeen]:
    """What the pods said, for whoever chooses which of them may go."""
    return {
        name: LoadSeen(
            pod=name,
            at=scrape.at,
            running=one.running,
            waiting=one.waiting,
            queued_tokens=one.queued_tokens,
            leases=one.leases,
            kv_usage=one.kv_usage,
            refused=one.why if one.state == REFUSED else "",
        )
        for name, one in scrape.endpoints().items()
        if one.state in (*ANSWERING, REFUSED)
    }


def _role_load(pods: list[PodSeen], endpoints: Mapping[str, FleetEndpoint]) -> RoleLoad:
    loads, missing, num_starting = {}, [], 0
    for pod in pods:
        endpoint = endpoints.get(pod.name)
        if endpoint is not None and endpoint.state == "ready" and pod.is_ready:
            loads[pod.name] = PodLoad(
                running=endpoint.running,
                waiting=endpoint.waiting,
                queued_tokens=endpoint.queued_tokens,
                kv_usage=endpoint.kv_usage,
                prefill_rate=endpoint.prefill_rate,
                prompt_tokens=endpoint.prompt_tokens,
                output_tokens=endpoint.output_tokens,
                max_num_seqs=endpoint.max_num_seqs,
            )
        elif pod.drained_since is not None or (endpoint is not None and endpoint.state == "draining"):
            continue  # it is on its way out: neither capacity nor load
        elif pod.is_ready and (endpoint is None or endpoint.state not in ANSWERING):
            missing.append(pod.name)
        else:
            num_starting += 1
    return RoleLoad(pods=loads, num_starting=num_starting, missing=tuple(missing))
