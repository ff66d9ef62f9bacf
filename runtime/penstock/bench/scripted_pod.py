"""A pod without an engine: it tells its load, and answers requests with a text that is known beforehand.

What a router is measured and tested against: `python -m penstock.bench.scripted_pod --port 8101`. Its tokens come in a
fixed rhythm, the same for the same prompt at every pod, and it goes on with what another pod has begun. Where a request
wants stamps, a token is `@<nanoseconds>@` instead, the moment at which it was sent (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
import uvicorn
import uvloop

from penstock.internal.frames import CONTENT_TYPE, HEARTBEAT_SECONDS, Frame, FrameKind
from penstock.internal.protocol import LOAD_PATH, ROUTE_PATH, Load, RoutedCall
from penstock.wire import decoder

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

EVENTS = b"text/event-stream; charset=utf-8"
JSON = b"application/json"
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True, kw_only=True)
class Script:
    """How a pod behaves."""

    name: str = "scripted"
    role: str = "decode"
    model: str = "scripted"
    revision: str = ""
    fingerprint: str = "f"
    max_num_seqs: int = 100_000
    first_seconds: float = 0.0  # until the first token
    token_seconds: float = 0.0  # from one token to the next
    default_tokens: int = 16


class Prompt(msgspec.Struct):
    """What it reads of a request."""

    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    max_tokens: int | None = None
    stream: bool = False
    pace: float | None = None  # seconds from one token to the next
    stamps: bool = False


class ScriptedPod:
    """The pod as an ASGI application."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.session = secrets.token_hex(8)
        self.running = 0
        self.most_running = 0
        self.num_tokens = 0
        self.calls: list[RoutedCall] = []  # the last ones that it was told
        self._call_decoder = decoder(RoutedCall)
        self._prompt_decoder = msgspec.json.Decoder(Prompt)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        path = scope["path"]
        if path == LOAD_PATH:
            await respond(send, msgspec.json.encode(self.load()))
        elif path == ROUTE_PATH:
            call: RoutedCall = self._call_decoder.decode(await read_body(receive))
            self.calls = [*self.calls[-99:], call]
            await self.route(call, receive, send)
        elif path in ("/v1/completions", "/v1/chat/completions"):
            await self.answer(self._prompt_decoder.decode(await read_body(receive)), send)
        elif path == "/v1/models":
            await respond(send, msgspec.json.encode({"object": "list", "data": [{"id": self.script.model}]}))
        elif path in ("/livez", "/readyz", "/healthz"):
            await respond(send, b"{}")
        else:
            await respond(send, b'{"error":{"message":"nothing is served here"}}', 404)

    def load(self) -> Load:
        """How it is doing."""
        script = self.script
        return Load(
            name=script.name,
            role=script.role,
            model=script.model,
            version="scripted",
            revision=script.revision,
            fingerprint=script.fingerprint,
            session=self.session,
            now=time.monotonic(),
            ready=True,
            draining=False,
            stalled=0.0,
            running=self.running,
            waiting=0,
            queued_tokens=0,
            prefill_rate=None,
            output_tokens=self.num_tokens,
            kv_usage=0.0,
            capacity_tokens=1 << 20,
            max_model_len=1 << 16,
            max_num_seqs=script.max_num_seqs,
        )

    async def route(self, call: RoutedCall, receive: Receive, send: Send) -> None:
        """Answer a router: with frames, or as the public port would."""
        prompt = self._prompt_decoder.decode(call.body)
        if call.is_plain:
            await respond(send, call.body)
            return
        await start(send, 200, CONTENT_TYPE)
        gone = asyncio.ensure_future(wait_gone(receive))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async for frame in self.frames(call, prompt):
                if gone.done():
                    return
                is_last = frame.kind in (FrameKind.END, FrameKind.ERROR, FrameKind.MOVED)
                await send({"type": "http.response.body", "body": frame.to_bytes(), "more_body": not is_last})
                if is_last:
                    return
        finally:
            self.running -= 1
            gone.cancel()

    async def frames(self, call: RoutedCall, prompt: Prompt) -> AsyncIterator[Frame]:
        """All frames of an answer, from the token on that follows the last record."""
        begin = int(call.records[-1]) + 1 if call.records else 0
        words = words_of(prompt, self.script.default_tokens)
        for index in range(begin, len(words)):
            async for frame in self._wait(prompt, is_first=index == begin):
                yield frame
            self.num_tokens += 1
            payload = event_of(stamp() if prompt.stamps else words[index]) if prompt.stream else b""
            yield Frame(FrameKind.EVENT, b"%d" % index, payload)
        yield Frame(FrameKind.END, payload=DONE if prompt.stream else whole_of(words))

    async def _wait(self, prompt: Prompt, *, is_first: bool) -> AsyncIterator[Frame]:
        """The pause before a token, with heartbeats."""
        seconds = self.pause(prompt, is_first=is_first)
        while seconds > HEARTBEAT_SECONDS:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            seconds -= HEARTBEAT_SECONDS
            yield Frame(FrameKind.HEARTBEAT)
        await asyncio.sleep(seconds)

    def pause(self, prompt: Prompt, *, is_first: bool) -> float:
        """Seconds before a token."""
        if is_first:
            return self.script.first_seconds
        return self.script.token_seconds if prompt.pace is None else prompt.pace

    async def answer(self, prompt: Prompt, send: Send) -> None:
        """Answer a client that came without a router."""
        words = words_of(prompt, self.script.default_tokens)
        if not prompt.stream:
            await asyncio.sleep(sum(self.pause(prompt, is_first=not index) for index in range(len(words))))
            await respond(send, whole_of(words))
            return
        self.running += 1
        try:
            for index, word in enumerate(words):
                await asyncio.sleep(self.pause(prompt, is_first=not index))
                if not index:
                    await start(send, 200, EVENTS)
                event = event_of(stamp() if prompt.stamps else word)
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": DONE, "more_body": False})
        finally:
            self.running -= 1


def words_of(prompt: Prompt, default: int) -> list[bytes]:
    """The text that answers a prompt, token by token; the same wherever it is asked."""
    digest = blake2b(bytes(prompt.prompt) or bytes(prompt.messages), digest_size=3).hexdigest().encode()
    number = default if prompt.max_tokens is None else prompt.max_tokens
    return [b" %b-%d" % (digest, index) for index in range(number)]


def event_of(word: bytes) -> bytes:
    """One token as an event of a stream."""
    return b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"%b"}]}\n\n' % word


def whole_of(words: list[bytes]) -> bytes:
    """An answer that comes at once."""
    return (
        b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"%b"}],"usage":{"completion_tokens":%d}}'
        % (b"".join(words), len(words))
    )


def stamp() -> bytes:
    """A token that tells when it was sent."""
    return b"@%d@" % time.monotonic_ns()


def pod_command(port: int, **values: object) -> list[str]:
    """The command line of such a pod; `values` of its `Script`."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return [sys.executable, "-m", "penstock.bench.scripted_pod", f"--port={port}", f"--name=scripted-{port}", *words]


async def read_body(receive: Receive) -> bytes:
    """A request's body."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def wait_gone(receive: Receive) -> None:
    """Until the other side has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send: Send, status: int, content_type: bytes) -> None:
    """Begin an answer."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})


async def respond(send: Send, body: bytes, status: int = 200) -> None:
    """A whole answer in JSON."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", JSON), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def build_config(pod: ScriptedPod, port: int) -> uvicorn.Config:
    """Its HTTP server."""
    return uvicorn.Config(
        pod,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        backlog=2048,
        timeout_keep_alive=75,
    )


def main(words: list[str]) -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    script = Script()
    for name in Script.__slots__:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(getattr(script, name)), default=getattr(script, name)
        )
    values = vars(parser.parse_args(words))
    port = values.pop("port")
    server = uvicorn.Server(build_config(ScriptedPod(Script(**values)), port))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
