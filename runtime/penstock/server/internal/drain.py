"""Taking this pod out of service and back in, for all of its front-ends."""

from __future__ import annotations

import logging

from penstock.logs import event
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

_log = logging.getLogger("penstock.api")


async def drain(serving: Serving, exchange: PodExchange) -> None:
    """Take nothing new; what runs goes on. Idempotent."""
    if not serving.llm.drain_flag.is_set:
        event(_log, "drain.set", in_flight=serving.llm.num_in_flight)
    serving.llm.drain_flag.set()
    await exchange.respond_json({"status": "draining"})


async def undrain(serving: Serving, exchange: PodExchange) -> None:
    """Take requests again. Idempotent."""
    if serving.llm.drain_flag.is_set:
        event(_log, "drain.cleared")
    serving.llm.drain_flag.clear()
    await exchange.respond_json({"status": "serving"})
