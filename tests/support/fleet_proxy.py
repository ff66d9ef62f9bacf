"""Somebody in the middle: a TCP proxy in front of a prefill pod that changes what its prefill calls are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from penstock.internal.protocol import PREFILL_PATH

CALL = f"POST {PREFILL_PATH} ".encode()
HEAD_END = b"\r\n\r\n"

Change = Callable[[bytes, int], bytes | None]  # (a piece of the body, its place in it) -> instead; None: cut the line


class Proxy:
    """Passes everything on, but the bodies of answers to prefill calls through `change`."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.change: Change = lambda data, at: data
        self.heard: list[bytes] = []  # the body of each answer as the pod sent it
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._pass(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection(self._host, int(self._port))
        is_call = [False]

        async def forth() -> None:
            while data := await reader.read(1 << 16):
                is_call[0] = data.startswith(CALL) or (is_call[0] and not data.startswith((b"GET ", b"POST ")))
                to_there.write(data)
            to_there.write_eof()

        async def back() -> None:
            at, is_head = 0, True
            while data := await there.read(1 << 16):
                if not is_call[0]:
                    writer.write(data)
                    continue
                if is_head:
                    self.heard.append(b"")
                    head, end, data = data.partition(HEAD_END)
                    writer.write(head + end)
                    is_head = False
                self.heard[-1] += data
                changed = self.change(data, at)
                at += len(data)
                if changed is None:
                    writer.transport.abort()
                    return
                writer.write(changed)

        passing = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in passing:
                each.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            to_there.close()
