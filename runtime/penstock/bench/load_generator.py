"""Open-loop load on an OpenAI server: requests start when their time has come, however the server is doing.

Plain HTTP/1.1 over asyncio streams, one connection per request, so that the client costs little beside the server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

TIMEOUT = 300.0  # seconds of one request


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


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request as its client saw it; times in seconds since the load began."""

    due: float
    status: int = 0  # 0: no answer at all
    events: list[float] = field(default_factory=list)  # when each piece of text arrived
    num_tokens: int = 0
    is_complete: bool = False

    @property
    def time_to_first(self) -> float:
        """Seconds from the moment it was due, so that a late client cannot flatter the server."""
        return self.events[0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces."""
        return [later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)]


def offer(url: str, model: str, load: Load) -> list[Exchange]:
    """Run the whole load against `url` and return every exchange, in the order of arrival."""
    return asyncio.run(offer_all(url, model, load))


async def offer_all(url: str, model: str, load: Load) -> list[Exchange]:
    """See `offer`."""
    arrivals = load.arrivals()
    bodies = [body_of(model, prompt, load.output_tokens) for prompt in load.prompts(len(arrivals))]
    exchanges = [Exchange(due=moment) for moment in arrivals]
    began = time.perf_counter()
    tasks = []
    for exchange, body in zip(exchanges, bodies, strict=True):
        await asyncio.sleep(max(0.0, exchange.due - (time.perf_counter() - began)))
        tasks.append(asyncio.create_task(talk(url, body, exchange, began)))
    await asyncio.gather(*tasks)
    return exchanges


def body_of(model: str, prompt: Sequence[int], output_tokens: int) -> bytes:
    """A streamed completion of exactly `output_tokens` tokens."""
    request = {
        "model": model,
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(request).encode()


async def talk(url: str, body: bytes, exchange: Exchange, began: float) -> None:
    """Send one request and note when each event of the answer comes; errors end in `exchange.status`."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    head = f"POST {address.path.rstrip('/')}/v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(head.encode() + body)
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
            exchange.is_complete = exchange.num_tokens > 0
            return
        event = json.loads(data)
        if event.get("choices"):
            exchange.events.append(time.perf_counter() - began)
        if usage := event.get("usage"):
            exchange.num_tokens = usage["completion_tokens"]
