"""Open-loop load on an OpenAI server: requests start when their time has come, however the server is doing.

Plain HTTP/1.1 over asyncio streams, one connection per request, so that the client costs little beside the server.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

TIMEOUT = 300.0  # seconds of one request
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is offered: `rate` requests per second for `seconds`; gaps have a coefficient of variation of `burstiness`
    (1 is Poisson, more is burstier: Gamma). After that, `at_once` requests together."""

    rate: float
    seconds: float
    burstiness: float
    prompt_tokens: int
    output_tokens: int
    seed: int
    at_once: int = 0

    def arrivals(self) -> list[float]:
        """Start times in seconds, from 0."""
        shape = 1 / self.burstiness**2
        random = np.random.default_rng(self.seed)
        gaps = random.gamma(shape, 1 / shape, size=int(self.rate * self.seconds * 4) + 64)
        times = np.cumsum(gaps) / self.rate if self.rate else np.array([])
        return [float(moment) for moment in times[times < self.seconds]] + [self.seconds] * self.at_once

    def prompts(self, count: int) -> list[list[int]]:
        """A different prompt of token ids for each request."""
        random = np.random.default_rng(self.seed + 1)
        ids: list[list[int]] = random.integers(100, 32_000, (count, self.prompt_tokens)).tolist()
        return ids

    def texts(self, count: int) -> list[str]:
        """A different prompt of words for each request, about a token each."""
        picks = np.random.default_rng(self.seed + 1).integers(len(WORDS), size=(count, self.prompt_tokens))
        return [" ".join(WORDS[pick] for pick in row) for row in picks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An OpenAI server, and which of its dialects is spoken."""

    url: str  # without /v1
    model: str
    is_chat: bool = False  # /v1/chat/completions with text; else /v1/completions with token ids
    has_ignore_eos: bool = True  # it takes `ignore_eos`, so that every answer has the length asked for
    api_key: str | None = None

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/v1/chat/completions" if self.is_chat else "/v1/completions"

    def body(self, prompt: Sequence[int] | str, output_tokens: int) -> bytes:
        """A streamed, greedy request for `output_tokens` tokens."""
        request: dict[str, object] = {
            "model": self.model,
            "max_tokens": output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        request |= {"messages": [{"role": "user", "content": prompt}]} if self.is_chat else {"prompt": prompt}
        return json.dumps(request | ({"ignore_eos": True} if self.has_ignore_eos else {})).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A request that is to be sent `due` seconds after the load began; its client goes away at `leave`."""

    due: float
    body: bytes
    leave: float = math.inf


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request as its client saw it; times in seconds since the load began."""

    due: float
    sent: float = math.nan  # later than it was due if this process could not keep up
    status: int = 0  # 0: no answer at all
    events: list[float] = field(default_factory=list)  # when each piece of text arrived
    num_tokens: int = 0
    is_complete: bool = False
    text: str = ""

    @property
    def time_to_first(self) -> float:
        """Seconds from the moment it was due, so that a late client cannot flatter the server."""
        return self.events[0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces."""
        return [later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)]


def offer(target: Target, load: Load) -> list[Exchange]:
    """Run the whole load against the server and return every exchange, in the order of arrival."""
    return asyncio.run(offer_all(target, load))


async def offer_all(target: Target, load: Load) -> list[Exchange]:
    """See `offer`."""
    arrivals = load.arrivals()
    prompts = load.texts(len(arrivals)) if target.is_chat else load.prompts(len(arrivals))
    bodies = [target.body(prompt, load.output_tokens) for prompt in prompts]
    return await offer_planned(
        target, [Planned(due=due, body=body) for due, body in zip(arrivals, bodies, strict=True)]
    )


async def offer_planned(target: Target, planned: Sequence[Planned]) -> list[Exchange]:
    """Send each request when it is due (in order of time), however the others are doing, and wait for all."""
    exchanges = [Exchange(due=request.due) for request in planned]
    began = time.perf_counter()
    tasks = []
    for exchange, request in zip(exchanges, planned, strict=True):
        await asyncio.sleep(max(0.0, exchange.due - (time.perf_counter() - began)))
        tasks.append(asyncio.create_task(talk(target, request, exchange, began)))
    await asyncio.gather(*tasks)
    return exchanges


async def talk(target: Target, request: Planned, exchange: Exchange, began: float) -> None:
    """Send one request and note when each event of the answer comes; errors end in `exchange.status`."""
    address = urlsplit(target.url)
    is_secure = address.scheme == "https"
    host, port = address.hostname or "", address.port or (443 if is_secure else 80)
    lines = [
        f"POST {address.path.rstrip('/')}{target.path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(request.body)}",
        *([f"Authorization: Bearer {target.api_key}"] if target.api_key else []),
    ]
    exchange.sent = time.perf_counter() - began
    try:
        async with asyncio.timeout(min(TIMEOUT, request.leave - exchange.sent)):
            reader, writer = await asyncio.open_connection(host, port, ssl=is_secure or None)
            try:
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + request.body)
                await read_answer(reader, exchange, began)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
        exchange.is_complete = False


async def read_answer(reader: asyncio.StreamReader, exchange: Exchange, began: float) -> None:
    """The status line, then server-sent events until `[DONE]`; lines of the chunked coding are no events."""
    words = (await reader.readline()).split()
    if len(words) < 2:
        return  # closed without an answer
    exchange.status = int(words[1])
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            exchange.num_tokens = exchange.num_tokens or len(exchange.events)  # a server that tells no usage
            exchange.is_complete = exchange.num_tokens > 0
            if exchange.is_complete and not exchange.events:  # all its tokens are invisible
                exchange.events.append(time.perf_counter() - began)
            return
        event = json.loads(data)
        for choice in event.get("choices") or []:
            if (piece := piece_of(choice)) is not None:
                exchange.events.append(time.perf_counter() - began)
                exchange.text += piece
        if usage := event.get("usage"):
            exchange.num_tokens = usage["completion_tokens"]


def piece_of(choice: dict[str, Any]) -> str | None:
    """The text that an event brings; None for one that brings none, such as the role at the beginning of a chat."""
    if "text" in choice:
        return choice["text"] or None
    delta = choice.get("delta") or {}
    return delta.get("content") or delta.get("reasoning_content") or None
