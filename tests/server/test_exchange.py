from __future__ import annotations

import asyncio
import gc
import weakref

from penstock.server.exchange import Exchange


class Holder:
    """Somebody who holds an exchange, and whom the exchange tells that its client left."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    async def leave(self) -> None:
        """Nothing to do."""


async def answer_once() -> weakref.ref[Holder]:
    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        pass

    exchange = Exchange({"path": "/"}, receive, send, request_id="r", started_at=0.0)
    exchange.watch()
    holder = Holder(exchange)
    await exchange.on_disconnect(holder.leave)
    await asyncio.sleep(0)  # it watches now
    exchange.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return weakref.ref(holder)


def test_a_closed_exchange_leaves_no_cycles_for_the_collector():
    gc.disable()
    try:
        assert asyncio.run(answer_once())() is None
    finally:
        gc.enable()
