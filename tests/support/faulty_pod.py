"""A scripted pod that misbehaves as it is told, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import uvicorn

from penstock.bench.scripted_pod import DONE, Prompt, Script, ScriptedPod, build_config, respond
from penstock.internal.frames import Frame, FrameKind
from penstock.internal.protocol import LOAD_PATH, ROUTE_PATH, Load, RoutedCall


class FaultyPod(ScriptedPod):
    """What it does wrong can be changed at any time."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.load_changes: dict[str, object] = {}
        self.load_answer: bytes | None = None  # instead of a load
        self.load_status = 200
        self.refusals: list[tuple[int, bytes]] = []  # status and body for the next calls
        self.faults: dict[int, str] = {}  # before token N of an answer, once: cut, move, death, silence, error, garbage
        self.is_hanging = False  # answers nothing any more
        self.port = 0
        self.server: uvicorn.Server | None = None

    def load(self) -> Load:
        return msgspec.structs.replace(super().load(), **self.load_changes)

    async def __call__(self, scope, receive, send) -> None:
        if self.is_hanging:
            await asyncio.sleep(3600)
        if scope["path"] == LOAD_PATH and (self.load_answer is not None or self.load_status != 200):
            await respond(send, self.load_answer or b"{}", self.load_status)
        elif scope["path"] == ROUTE_PATH and self.refusals:
            status, body = self.refusals.pop(0)
            await respond(send, body, status)
        else:
            await super().__call__(scope, receive, send)

    async def frames(self, call: RoutedCall, prompt: Prompt) -> AsyncIterator[Frame]:
        index = int(call.records[-1]) + 1 if call.records else 0
        async for frame in super().frames(call, prompt):
            if frame.kind is FrameKind.EVENT:
                match self.faults.pop(index, ""):
                    case "cut":
                        raise ConnectionAbortedError("cut as told")
                    case "move":
                        yield Frame(FrameKind.MOVED)
                        return
                    case "death":
                        yield Frame(FrameKind.DEATH)
                    case "silence":
                        await asyncio.sleep(3600)
                    case "error":
                        payload = b'data: {"error":{"message":"bad numbers"}}\n\n' + DONE
                        yield Frame(FrameKind.ERROR, b"500", payload if prompt.stream else b'{"error":{}}')
                        return
                    case "garbage":
                        yield Frame(FrameKind.HEARTBEAT, b"", b"")
                        raise ConnectionAbortedError("cut as told")
                index += 1
            yield frame

    async def stop(self) -> None:
        """Close everything at once, as if it were killed."""
        assert self.server is not None
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()
        for server in self.server.servers:
            server.close()


@asynccontextmanager
async def faulty_pod(**values: object) -> AsyncIterator[FaultyPod]:
    """A pod that runs; `values` of its script."""
    pod = FaultyPod(Script(**values))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    pod.port = listener.getsockname()[1]
    config = build_config(pod, pod.port)
    config.load()
    pod.server = uvicorn.Server(config)
    pod.server.lifespan = config.lifespan_class(config)
    await pod.server.startup([listener])
    try:
        yield pod
    finally:
        await pod.stop()
        for task in list(pod.server.server_state.tasks):
            task.cancel()
        await asyncio.gather(*pod.server.server_state.tasks, return_exceptions=True)
