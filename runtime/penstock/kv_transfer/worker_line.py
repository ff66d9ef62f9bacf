"""The socket to the worker's transfer thread, as seen by an event loop; framed as `worker.channel` does."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from penstock.kv_transfer.messages import TransferInput, TransferOutput
from penstock.wire import decoder, encode
from penstock.worker.channel import LENGTH


class WorkerLine:
    """Messages both ways, in order; used from one thread only."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._decoder = decoder(TransferOutput)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def first(self, seconds: float) -> TransferOutput:
        """The worker's first message, before `open`; raises `EOFError` or `TimeoutError`."""
        until = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._receive(LENGTH.size, until))
        message: TransferOutput = self._decoder.decode(self._receive(length, until))
        return message

    async def open(self) -> None:
        """From now on `send` and `run` can be used, on this event loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)

    async def run(self, take: Callable[[TransferOutput], None]) -> None:
        """Hand over what the worker says; returns when it is gone."""
        assert self._reader is not None, "run before open"
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                take(self._decoder.decode(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def send(self, message: TransferInput) -> None:
        """Queue a message; to a worker that is gone it is lost."""
        assert self._writer is not None, "send before open"
        data = encode(message)
        self._writer.write(LENGTH.pack(len(data)) + data)

    def close(self) -> None:
        """Close this end; the worker's thread sees that."""
        if self._writer is not None:
            self._writer.close()
        self._connection.close()

    def _receive(self, size: int, until: float) -> bytes:
        data = b""
        while len(data) < size:
            self._connection.settimeout(max(0.001, until - time.monotonic()))
            if not (piece := self._connection.recv(size - len(data))):
                raise EOFError("the worker is gone")
            data += piece
        return data
