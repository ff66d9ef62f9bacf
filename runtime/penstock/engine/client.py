"""A front-end's sockets: to the engine core, and from it. Bytes in, messages out, nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
import zmq

from penstock.engine.launch import Launch
from penstock.engine.messages import EngineInput, EngineOutput
from penstock.logs import event
from penstock.wire import decoder, encode

MESSAGES_PER_WAKE = 64  # then the event loop gets a turn
RECONNECT_MS = 10  # an engine core that comes back is found at once

_log = logging.getLogger(__name__)


class EngineClient:
    """ZeroMQ as seen by an event loop: `send` never blocks, and arriving messages are handed over in order.

    A plain socket watched by its descriptor: `zmq.asyncio` makes a future per message and costs several times as much.
    """

    def __init__(self, launch: Launch, number: int) -> None:
        self.number = number
        self.num_dropped = 0  # messages that were not understood
        self._context = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.RCVHWM, 0)
        self._inbox.bind(launch.client_address(number))
        self._outbox = self._context.socket(zmq.PUSH)
        self._outbox.setsockopt(zmq.SNDHWM, 0)
        self._outbox.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._outbox.connect(launch.engine_address())
        self._decoder = decoder(EngineOutput)
        self._deliver: Callable[[EngineOutput], None] = _ignore
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[EngineOutput], None]) -> None:
        """From now on call `deliver` on `loop` for each message, in the order of arrival."""
        self._loop, self._deliver = loop, deliver
        loop.add_reader(self._inbox.fileno(), self._drain)
        loop.call_soon(self._drain)  # the descriptor only signals changes, and something may be there already

    def send(self, message: EngineInput) -> None:
        """Queue a message for the engine core; without one it waits for the next, whose epoch may drop it."""
        self._outbox.send(encode(message), zmq.NOBLOCK)

    def close(self) -> None:
        """Stop delivering and close the sockets; what is unsent is dropped."""
        if self._loop is not None:
            self._loop.remove_reader(self._inbox.fileno())
            self._loop = None
        self._context.destroy(linger=0)

    def _drain(self) -> None:
        is_empty = False
        try:
            for _ in range(MESSAGES_PER_WAKE):
                if self._loop is None or not has_message(self._inbox):
                    is_empty = True
                    return
                self._take(self._inbox.recv(zmq.NOBLOCK))
        finally:  # also when a message caused an exception: the rest must not wait for the next one
            if not is_empty and self._loop is not None:
                self._loop.call_soon(self._drain)

    def _take(self, data: bytes) -> None:
        try:
            message = self._decoder.decode(data)
        except msgspec.DecodeError as error:
            self.num_dropped += 1
            event(_log, "message.dropped", level=logging.WARNING, bytes=len(data), why=str(error))
            return
        self._deliver(message)


def has_message(socket: zmq.Socket[bytes]) -> bool:
    """True if `recv` would not block; cheaper than `poll` or an exception."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def _ignore(message: EngineOutput) -> None:
    """Before `start` nobody listens, and nothing is read."""
