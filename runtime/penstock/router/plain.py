"""Requests that any pod answers whole and alike, such as /tokenize: asked of one pod after the other."""

from __future__ import annotations

from penstock.errors import Overloaded
from penstock.internal.protocol import RoutedCall
from penstock.router.admission import Waiter
from penstock.router.service import Service
from penstock.router.upstream import Call, Lost
from penstock.server.exchange import ClientGone, Exchange

MAX_ATTEMPTS = 8


async def ask_plainly(service: Service, exchange: Exchange, told: RoutedCall, tenant: str) -> None:
    """Pass on the answer of the first pod that gives one. Raises `Overloaded`, `ClientGone`."""
    began = service.clock()
    waiter = Waiter(tenant=tenant, work=0.0, since=began)
    calls: list[Call] = []

    async def leave() -> None:
        service.door.give_up(waiter, ClientGone())
        for call in calls:
            call.break_off("the client left")

    await exchange.on_disconnect(leave)
    for _ in range(MAX_ATTEMPTS):
        place = await service.door.enter(waiter, lost_since=began)  # it takes no row of the pod's
        call = Call(service.upstream, place.endpoint)
        calls[:] = [call]
        try:
            head = await call.open(told)
            body = await call.read_rest()
            if head.status not in (401, 403, 503):
                calls.clear()
                await exchange.respond(body, head.content_type, head.status, head.headers)
                return
        except Lost:
            service.metrics.count_retry()
        finally:
            call.close()
            place.leave()
        if exchange.is_disconnected:
            raise ClientGone
        waiter.lost_at[place.endpoint.address] = service.clock()
        service.watch.ask_soon(place.endpoint)
    raise Overloaded("no pod answers this at the moment")
