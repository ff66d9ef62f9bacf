"""The autoscaler at work: looks at every service that is scaled, and writes the RoleScalers of those it scales itself.

It runs in a thread of its own. All replicas of the operator look, so that each can answer HPAs and KEDA and knows the
past when it takes the Lease; only the one that leads writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.logs import event
from penstock_operator.api.parse import parse_service
from penstock_operator.api.status import Decision
from penstock_operator.autoscale.decide import Verdict
from penstock_operator.autoscale.scrape import Scraper
from penstock_operator.autoscale.signals import Scrape, loads_seen
from penstock_operator.autoscale.watched import Watched
from penstock_operator.cluster.kube import Kube
from penstock_operator.cluster.store import Store
from penstock_operator.errors import ApiError, SpecError
from penstock_operator.kinds import ROLE_SCALER
from penstock_operator.names import Key, of_role
from penstock_operator.observed.observe import observe
from penstock_operator.observed.seen import LoadSeen, Observed, ScalingSeen
from penstock_operator.service import Service

BUILTIN, HPA, ADVISORY = "Builtin", "HPA", "Advisory"
SERVICES_PER_SECOND = 100.0  # that are looked at, 0.4 ms of CPU each; with more than 200, each is looked at more seldom
FRESH_SECONDS = 5.0  # for which what pods said of their load is good enough to choose a victim
ANSWER_SECONDS = 5.0  # for a reconcile that has to wait for a scrape

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Whom the autoscaler tells."""

    decided: Callable[[Service, Decision], None]  # of each decision
    turned: Callable[[Key], None]  # something that the status shows is new


class Autoscaler:
    """Looks, decides, writes. Other threads may ask it what it has seen."""

    def __init__(
        self,
        store: Store,
        kube: Kube,
        outlets: Outlets,
        *,
        seconds: float,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`seconds`: between two looks at a service. `clock`: since the epoch."""
        self._store, self._kube, self._outlets = store, kube, outlets
        self._seconds, self._may_write, self._clock = seconds, may_write, clock
        self._watched: dict[Key, Watched] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look_on()), name="autoscaler", daemon=True)
        self._at_work: tuple[asyncio.AbstractEventLoop, asyncio.Event, Scraper] | None = None  # while the thread runs

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End within that time."""
        if self._at_work is not None:
            loop, stop, _ = self._at_work
            loop.call_soon_threadsafe(stop.set)
            self._thread.join(seconds)

    def watched(self, key: Key) -> Watched | None:
        """What is known of a service that is scaled; None where nothing is."""
        return self._watched.get(key)

    def scaling(self, key: Key) -> ScalingSeen | None:
        """For the status: None while nothing was looked at."""
        watched = self._watched.get(key)
        return None if watched is None else ScalingSeen(decisions=watched.decisions, holds=dict(watched.holds))

    def loads(self, key: Key) -> Mapping[str, LoadSeen]:
        """What pods said last; if one of them is to go, they are asked now where that was long ago.

        For threads other than the autoscaler's own.
        """
        watched, raw, at_work = self._watched.get(key), self._store.service(key), self._at_work
        if watched is not None and watched.scraped_at > self._clock() - FRESH_SECONDS:
            return watched.loads
        if raw is None or at_work is None:
            return {}
        service = parse_service(raw)
        observed = observe(service, self._store.children(key), {}, self._clock())
        if not _is_shrinking(observed):
            return {}
        loop, _, scraper = at_work
        asked = asyncio.run_coroutine_threadsafe(self._scrape(scraper, service, observed), loop)
        try:
            return loads_seen(asked.result(ANSWER_SECONDS))
        except TimeoutError:
            asked.cancel()
            return {}

    async def turn(self, scraper: Scraper) -> int:
        """Look at every service that is scaled, once; returns how many there are."""
        keys = [key for key in self._store.services() if self._take_up(key)]
        for key in self._watched.keys() - set(keys):
            del self._watched[key]
        await asyncio.gather(*(self._look(scraper, key) for key in keys))
        return len(keys)

    async def _look_on(self) -> None:
        loop, stop, scraper = asyncio.get_running_loop(), asyncio.Event(), Scraper(self._clock)
        self._at_work = (loop, stop, scraper)
        try:
            while not stop.is_set():
                begun = loop.time()
                count = await self.turn(scraper)
                rest = begun + max(self._seconds, count / SERVICES_PER_SECOND) - loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), max(0.0, rest))
        finally:
            self._at_work = None
            await scraper.close()

    def _take_up(self, key: Key) -> bool:
        """True if the service is scaled, by whomever; what is known of it is kept while it is the same one."""
        raw = self._store.service(key)
        if raw is None or not (raw.get("spec") or {}).get("autoscaling") or "deletionTimestamp" in raw["metadata"]:
            return False
        watched = self._watched.get(key)
        if watched is None or watched.version != (raw["metadata"]["uid"], raw["metadata"].get("generation", 0)):
            try:
                service = parse_service(raw)
            except SpecError:
                return False  # the status tells
            if watched is None or watched.service.uid != service.uid:
                watched = self._watched[key] = Watched(service=service)
                watched.recall(raw.get("status") or {})
            watched.service = service
        if not self._may_write():
            watched.recall(raw.get("status") or {})  # of whoever leads
        return not watched.service.spec.suspend

    async def _look(self, scraper: Scraper, key: Key) -> None:
        try:
            await self._look_once(scraper, self._watched[key])
        except (ApiError, SpecError) as error:
            event(_log, "service.not_scaled", level=logging.WARNING, service=key, why=error)
        except Exception:  # the top of a look: one service that we fail at must not stop the others
            _log.exception("service.not_scaled service=%s", key)

    async def _look_once(self, scraper: Scraper, watched: Watched) -> None:
        service = watched.service
        observed = observe(service, self._store.children(service.key), {}, self._clock())
        scrape = await self._scrape(scraper, service, observed)
        watched.loads, watched.scraped_at = loads_seen(scrape), scrape.at
        current = {
            role: observed.scalers[role].request if spec.replicas is None else spec.replicas
            for role, spec in service.roles.items()
            if role in observed.scalers or spec.replicas is not None
        }
        if current.keys() != service.roles.keys():
            return  # RoleScalers are about to be made
        before = watched.holds
        verdict = watched.look(scrape, observed, current, self._clock())
        watched.holds.update(_pauses(service, observed))
        if watched.holds != before:
            self._outlets.turned(service.key)
        for role in service.roles:
            await self._follow(watched, verdict, role, current[role])

    async def _follow(self, watched: Watched, verdict: Verdict, role: str, before: int) -> None:
        """Write and tell what was decided about a role."""
        reason, after, service = verdict.reasons.get(role), verdict.targets[role], watched.service
        if reason is None or role in watched.holds:
            return
        autoscaling = service.spec.autoscaling
        mode = "" if autoscaling is None else autoscaling.mode
        if mode == ADVISORY:
            decision = watched.note(self._clock(), role, before, reason, after=after, is_advice=True)
        elif (mode == BUILTIN or (mode == HPA and 0 in (before, after))) and self._may_write():
            if after != before:
                await asyncio.to_thread(self._write, service.key, role, after)
            decision = watched.note(self._clock(), role, before, reason, after=after, is_advice=False)
        else:
            return
        if decision is not None:
            event(_log, "pods.decided", service=service.key, role=role, why=decision.message)
            await asyncio.to_thread(self._outlets.decided, service, decision)
            self._outlets.turned(service.key)

    def _write(self, key: Key, role: str, replicas: int) -> None:
        name = of_role(key.name, role)
        scale = self._kube.scale(ROLE_SCALER, key.namespace, name, replicas)
        self._store.scaled(key, (ROLE_SCALER, name), replicas, scale["metadata"]["resourceVersion"])

    async def _scrape(self, scraper: Scraper, service: Service, observed: Observed) -> Scrape:
        security = service.spec.security
        return await scraper.scrape(observed.pods, has_tls=security is not None and security.tls is not None)


def _pauses(service: Service, observed: Observed) -> dict[str, str]:
    """By role: who else writes the number, so that we do not."""
    autoscaling = service.spec.autoscaling
    if autoscaling is None or autoscaling.mode != BUILTIN:
        return {}
    return {
        role: f"{' and '.join(scaler.writers)} writes its number of pods, so this operator does not"
        for role, scaler in observed.scalers.items()
        if scaler.writers
    }


def _is_shrinking(observed: Observed) -> bool:
    """True if a pod is marked to go, or a role has more than it is asked to have."""
    staying = [pod for pod in observed.pods if not pod.is_leaving]
    if any(pod.drained_since is not None for pod in staying):
        return True
    return any(sum(pod.role == role for pod in staying) > scaler.request for role, scaler in observed.scalers.items())
