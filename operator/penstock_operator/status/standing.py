"""How a service stands: the questions that its status answers, asked of spec, children, observation and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_operator import names
from penstock_operator.desired.children import Children
from penstock_operator.errors import ForeignObject, OperatorError
from penstock_operator.kinds import HTTP_ROUTE, SERVICE, Kind
from penstock_operator.observed.seen import Observed, PodSeen, Trouble
from penstock_operator.observed.trouble import route_trouble, workload_trouble
from penstock_operator.plan.fetched import is_fetched, job_of, wanted_job
from penstock_operator.plan.planner import Plan, desired_names
from penstock_operator.service import Manifest, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Of one service at one moment."""

    service: Service
    children: Children | None
    observed: Observed
    plan: Plan | None
    problem: OperatorError | None

    @property
    def is_suspended(self) -> bool:
        """True if it shall run nothing."""
        return self.service.spec.suspend is True

    @property
    def revision(self) -> str:
        """The newest; empty if it is not known."""
        return "" if self.children is None else self.children.revision

    @property
    def num_routers(self) -> int:
        """That are wanted."""
        if not self.service.has_router or self.is_suspended:
            return 0
        router = self.service.spec.router
        return router.replicas if router is not None and router.replicas is not None else 1

    def desired(self, role: str) -> int:
        """Pods that are wanted; without a plan, as many as were wanted last."""
        if self.plan is not None:
            return self.plan.targets[role].replicas
        return max((one.wanted for one in self.observed.workloads if one.role == role), default=0)

    @property
    def wants_none(self) -> bool:
        """True if no role is to have a pod."""
        return not any(self.desired(role) for role in self.service.roles)

    def pods(self, role: str) -> list[PodSeen]:
        """Of all revisions, without those that leave."""
        return [pod for pod in self.observed.pods if pod.role == role and not pod.is_leaving]

    def num_ready(self, role: str) -> int:
        """That take new requests."""
        return sum(pod.is_serving for pod in self.pods(role))

    @property
    def has_router_ready(self) -> bool:
        """True if clients get through, or there is nothing to get through."""
        seen = self.observed.router
        return not self.service.has_router or (seen is not None and seen.num_available > 0)

    @property
    def is_serving(self) -> bool:
        """True if some revision has a ready pod for each role that is wanted, and clients reach it."""
        ready = {(pod.revision, pod.role) for pod in self.observed.pods if pod.is_serving}
        revisions: dict[str, set[str]] = {}
        for workload in self.observed.workloads:
            revisions.setdefault(workload.revision, set()).add(workload.role)
        return (
            self.has_router_ready
            and self.has_front
            and any(
                all((revision, role) in ready for role in self._needed(roles)) for revision, roles in revisions.items()
            )
        )

    @property
    def has_front(self) -> bool:
        """True unless somebody else's Service stands where clients would find this one."""
        name, problem = self.service.key.name, self.problem
        is_taken = isinstance(problem, ForeignObject) and (problem.kind, problem.name) == (SERVICE.kind, name)
        return not is_taken and (SERVICE, name) not in self.foreign

    def _needed(self, roles: set[str]) -> set[str]:
        """Roles without which a revision cannot serve. `roles`: those that it has; they may be others than now."""
        if not roles & self.service.roles.keys():
            return roles
        return {role for role in self.service.roles if self.desired(role)}

    @property
    def is_settled(self) -> bool:
        """True if nothing is left to do."""
        plan, router = self.plan, self.observed.router
        if plan is None or plan.rollout.olds or plan.waiting_for is not None:
            return False
        now = self.observed.now
        if any(
            (pod.is_leaving and not pod.is_lost(now)) or pod.drained_since is not None for pod in self.observed.pods
        ):
            return False
        for role in self.service.roles:
            desired = self.desired(role)
            if self.num_ready(role) != desired or len(self.pods(role)) != desired:
                return False
        if not self.service.has_router:
            return router is None
        return (
            router is not None
            and router.observed
            and router.wanted == self.num_routers
            and router.num_available == router.num_pods == router.num_updated == self.num_routers
        )

    @property
    def foreign(self) -> tuple[tuple[Kind, str], ...]:
        """Objects of others under names that we need, and that will not go by themselves."""
        wanted = set() if self.children is None else desired_names(self.children) - self.observed.orphans
        return tuple(name for name in self.observed.foreign if name in wanted)

    @property
    def has_download(self) -> bool:
        """True if we fill a shared cache."""
        return self.children is not None and wanted_job(self.children) is not None

    @property
    def download(self) -> Manifest | None:
        """The Job that does, if it is there."""
        return None if self.children is None else job_of(self.children, self.observed)

    @property
    def is_downloaded(self) -> bool:
        """True if the shared cache holds the model."""
        return self.children is not None and self.has_download and is_fetched(self.children, self.observed)

    def cause(self, *roles: str) -> Trouble | None:
        """The root cause of these roles' troubles: the newest revision's first, and what waiting does not cure."""
        troubles = self._troubles(roles)
        return min(troubles, key=lambda one: (one[0], not one[1].is_terminal), default=(False, None))[1]

    @property
    def terminal_cause(self) -> Trouble | None:
        """What somebody has to cure. What is wrong with an old revision is being cured already."""
        troubles = self._troubles((names.DOWNLOAD, *self.service.roles, names.ROUTER))
        return next((trouble for is_old, trouble in troubles if trouble.is_terminal and not is_old), None)

    def _troubles(self, roles: Sequence[str]) -> list[tuple[bool, Trouble]]:
        """In the order of `roles`, each with whether its revision is an old one."""
        seen = [*self.observed.workloads, *([self.observed.router] if self.observed.router else [])]
        found = []
        for role in roles:
            found += [(pod.revision, pod.trouble) for pod in self.pods(role)]
            found += [(one.revision, workload_trouble(one.manifest)) for one in seen if one.role == role]
            found += [(pod.revision, pod.trouble) for pod in self.observed.failures if pod.role == role]
        return [(revision not in (self.revision, ""), trouble) for revision, trouble in found if trouble is not None]

    @property
    def detour(self) -> Trouble | None:
        """Why clients do not get here through a Gateway, although the service is there."""
        routes = (one for (kind, _), one in self.observed.children.items() if kind == HTTP_ROUTE)
        return next((trouble for route in routes if (trouble := route_trouble(route)) is not None), None)

    @property
    def root_cause(self) -> Trouble | None:
        """Of everything: a download before what waits for it, pods before the router that waits for them."""
        return self.cause(names.DOWNLOAD) or self.cause(*self.service.roles) or self.cause(names.ROUTER)
