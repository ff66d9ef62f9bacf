"""Real HTTP servers that answer `/fleet` as a router, or a pod, of some service would."""

from __future__ import annotations

import itertools
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from penstock.internal.fleet import FLEET_PATH, Fleet, FleetEndpoint, RouterTotals

_addresses = itertools.count(2)


def own_address() -> str:
    """An address of this machine that no other test process uses, so that its ports are free."""
    process = os.getpid()
    return f"127.{40 + process % 100}.{process // 100 % 250}.{next(_addresses)}"


@dataclass
class FleetTeller:
    """What it says next time it is asked; `is_silent`: it answers 503."""

    address: str
    endpoints: list[FleetEndpoint] = field(default_factory=list)
    router: RouterTotals | None = None
    is_silent: bool = False
    num_asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        """One answer."""
        self.num_asked += 1
        if self.is_silent:
            return web.Response(status=503)
        return web.Response(body=msgspec.json.encode(Fleet(endpoints=self.endpoints, router=self.router)))


@asynccontextmanager
async def fleet_teller(port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[FleetTeller]:
    """One, at that port of an address of its own; HTTPS with `tls`."""
    teller = FleetTeller(own_address())
    app = web.Application()
    app.router.add_get(FLEET_PATH, teller.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, teller.address, port, ssl_context=tls).start()
    try:
        yield teller
    finally:
        await runner.cleanup()
