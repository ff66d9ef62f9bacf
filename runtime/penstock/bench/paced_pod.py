"""A scripted pod that costs next to nothing, so that a router in front of it is what saturates.

It sends the events of a stream at the pace that the request asks for (`max_tokens` of them, `pace` seconds apart), as
frames to a router or as server-sent events to a client, and each event says when it was sent: see `stream_client`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

from penstock.bench.scripted_pod import DONE, JSON, Script, ScriptedPod
from penstock.commands.members import HOST
from penstock.internal.frames import CONTENT_TYPE, Frame, FrameKind
from penstock.internal.protocol import LOAD_PATH, ROUTE_PATH, RoutedCall
from penstock.wire import decoder

PATH = "/v1/completions"
EVENTS = b"text/event-stream; charset=utf-8"
BACKLOG = 4096


class Wanted(msgspec.Struct):
    """What a request asks for."""

    max_tokens: int
    pace: float = 0.0  # seconds


class PacedPod:
    """What all connections share."""

    def __init__(self) -> None:
        self.loads = ScriptedPod(Script(name="paced"))
        self.calls = decoder(RoutedCall)
        self.wishes = msgspec.json.Decoder(Wanted)


class PacedConnection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, pod: PacedPod) -> None:
        self._pod = pod
        self._pending = b""
        self._transport: asyncio.Transport | None = None
        self._is_routed = False
        self._num_left, self._next, self._pace = 0, 0.0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Nobody is told anything any more."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer a request that is complete."""
        self._pending += data
        head, found, body = self._pending.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
        if len(body) >= length:
            self._pending = b""
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path in (ROUTE_PATH, PATH):
            self._is_routed = path == ROUTE_PATH
            wanted = self._pod.wishes.decode(self._pod.calls.decode(body).body if self._is_routed else body)
            self._num_left, self._pace = wanted.max_tokens, wanted.pace
            kind = CONTENT_TYPE if self._is_routed else EVENTS
            self._write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind)
            self._next = asyncio.get_running_loop().time()
            self._send_event()
            return
        answer = msgspec.json.encode(self._pod.loads.load()) if path == LOAD_PATH else b"{}"
        self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (JSON, len(answer), answer)
        )

    def _send_event(self) -> None:
        if self._transport is None:
            return
        event = b'data: {"choices":[{"index":0,"text":"@%d@"}]}\n\n' % time.monotonic_ns()
        self._write_chunk(Frame(FrameKind.EVENT, b"r", event).to_bytes() if self._is_routed else event)
        self._num_left -= 1
        if self._num_left > 0:
            self._next += self._pace
            asyncio.get_running_loop().call_at(self._next, self._send_event)
            return
        self._write_chunk(Frame(FrameKind.END, payload=DONE).to_bytes() if self._is_routed else DONE)
        self._write(b"0\r\n\r\n")

    def _write_chunk(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data))

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def pod_command(port: int) -> list[str]:
    """The command line of such a pod."""
    return [sys.executable, "-m", "penstock.bench.paced_pod", str(port)]


def request_bytes(num_events: int, pace: float) -> bytes:
    """The HTTP request for one stream, to the router or to a pod itself."""
    wanted = {"model": "scripted", "prompt": "x", "max_tokens": num_events, "pace": pace, "stream": True}
    body = msgspec.json.encode(wanted)
    head = f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def serve(port: int) -> None:
    """Until a signal."""
    pod = PacedPod()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PacedConnection(pod), HOST, port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
