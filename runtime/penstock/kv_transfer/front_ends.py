"""What the connector's thread tells front-ends, on sockets of its own."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from penstock.kv_transfer.front_end_messages import LendNews, Strike
from penstock.wire import encode

LINGER_MS = 100


class FrontEnds:
    """A socket to each front-end that was told something; used from one thread only."""

    def __init__(self, address_of: Callable[[int], str]) -> None:
        self._address_of = address_of
        self._context = zmq.Context()
        self._sockets: dict[int, zmq.Socket[bytes]] = {}  # client number -> PUSH

    def send(self, client: int, message: LendNews | Strike) -> None:
        """Queue a message; one to a front-end that has died is lost."""
        if client not in self._sockets:
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.setsockopt(zmq.SNDHWM, 0)  # what can pile up is bounded by what is in flight
            socket.connect(self._address_of(client))
            self._sockets[client] = socket
        self._sockets[client].send(encode(message), zmq.NOBLOCK)

    def forget(self, client: int) -> None:
        """That front-end has died."""
        if socket := self._sockets.pop(client, None):
            socket.close(linger=0)

    def close(self) -> None:
        """Close all sockets; what is unsent has a moment to leave."""
        self._context.destroy()
