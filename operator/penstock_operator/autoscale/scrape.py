"""Asks routers and pods how they are doing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import aiohttp
import msgspec

from penstock.internal.fleet import FLEET_PATH, Fleet
from penstock.logs import event
from penstock_operator.autoscale.signals import Scrape
from penstock_operator.names import HTTP_PORT, INTERNAL_PORT, ROUTER
from penstock_operator.observed.seen import PodSeen

SECONDS = 2.0  # after which a pod has not answered
LARGEST = 8 << 20  # bytes of an answer: thousands of pods
AT_ONCE = 64  # pods that are asked at a time, over all services
FLEET = msgspec.json.Decoder(Fleet)  # made before there are threads, see `parse.py`

_log = logging.getLogger(__name__)


class Scraper:
    """Belongs to one event loop. Who does not answer, or not as it should, is left out of the result."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: seconds since the epoch."""
        self._clock = clock
        self._places = asyncio.Semaphore(AT_ONCE)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        # Pods are addressed by IP, for which no certificate is made out; what they say scales pods and is no secret.
        connector = aiohttp.TCPConnector(limit=0, ssl=False, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)

    async def scrape(self, pods: Iterable[PodSeen], *, has_tls: bool) -> Scrape:
        """Ask the routers, which know all pods, and the pods themselves only if no router answers.

        `has_tls`: of the routers. Pods without an address are not asked.
        """
        pods = [pod for pod in pods if pod.address and not (pod.role == ROUTER and pod.is_leaving)]
        scheme = "https" if has_tls else "http"
        routers = {pod.name: _url(scheme, pod, HTTP_PORT) for pod in pods if pod.role == ROUTER}
        fleets = await self._ask_all(routers)
        alone = {pod.name: _url("http", pod, INTERNAL_PORT) for pod in pods if pod.role != ROUTER and not fleets}
        told = await self._ask_all(alone)
        own = {name: fleet.endpoints[0] for name, fleet in told.items() if fleet.endpoints}
        return Scrape(at=self._clock(), routers=fleets, pods=own)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _ask_all(self, urls: dict[str, str]) -> dict[str, Fleet]:
        answers = await asyncio.gather(*(self._ask(url) for url in urls.values()))
        return {name: fleet for name, fleet in zip(urls, answers, strict=True) if fleet is not None}

    async def _ask(self, url: str) -> Fleet | None:
        try:
            async with self._places, self._session.get(url, allow_redirects=False) as reply:
                if reply.status != 200:
                    return None
                body = await reply.content.read(LARGEST)
                while (more := await reply.content.read(LARGEST)) and len(body) < LARGEST:
                    body += more
                return FLEET.decode(body)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            event(_log, "pod.silent", level=logging.DEBUG, url=url, why=repr(error))
            return None


def _url(scheme: str, pod: PodSeen, port: int) -> str:
    host = f"[{pod.address}]" if ":" in pod.address else pod.address
    return f"{scheme}://{host}:{port}{FLEET_PATH}"
