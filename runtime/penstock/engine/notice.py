"""The supervisor's one message to front-ends."""

from __future__ import annotations

from collections.abc import Iterable

import zmq

from penstock.engine.messages import EngineDown
from penstock.wire import encode

LINGER_MS = 500  # how long a stopped front-end may hold the supervisor up


def tell_engine_down(addresses: Iterable[str], epoch: int) -> None:
    """Tell the front-ends at `addresses` that the engine of this epoch died."""
    with zmq.Context() as context:
        for address in addresses:
            with context.socket(zmq.PUSH) as outbox:
                outbox.setsockopt(zmq.LINGER, LINGER_MS)
                outbox.connect(address)
                outbox.send(encode(EngineDown(epoch=epoch)))
