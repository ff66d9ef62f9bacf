"""A router worker in this process, behind a real HTTP server, in front of scripted pods."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields

import httpx
import msgspec

import penstock
from penstock.bench.scripted_pod import Prompt, words_of
from penstock.router.config import RouterConfig
from penstock.router.main import build_server, build_service
from penstock.router.service import Service
from support.faulty_pod import FaultyPod, faulty_pod


@dataclass
class RouterSite:
    """A running router, a client for it, and its pods."""

    service: Service
    http: httpx.AsyncClient
    port: int
    pods: list[FaultyPod]

    async def complete(self, prompt: str = "hi", **extra: object) -> httpx.Response:
        headers = extra.pop("headers", {})
        return await self.http.post("/v1/completions", json={"prompt": prompt} | extra, headers=headers)

    async def text(self, prompt: str = "hi", **extra: object) -> str:
        """The text of a whole answer."""
        reply = await self.complete(prompt, **extra)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["text"]

    async def stream(self, prompt: str = "hi", **extra: object) -> str:
        """The text of a streamed answer, which ended as it should."""
        reply = await self.complete(prompt, stream=True, **extra)
        return text_of(reply.text)

    async def metric(self, sample: str) -> float:
        page = (await self.http.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith((sample + " ", sample + "{"))]
        assert lines, f"there is no {sample}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def states(self) -> dict[str, str]:
        """Port of each pod -> its state."""
        found = (await self.http.get("/fleet")).json()["endpoints"]
        return {one["url"].rpartition(":")[2]: one["state"] for one in found}


def text_of(events: str) -> str:
    """The text in a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line]
    assert lines[-1] == "[DONE]", lines[-3:]
    parts = [json.loads(line) for line in lines[:-1]]
    assert not [part for part in parts if "error" in part], parts
    return "".join(part["choices"][0]["text"] for part in parts)


def expected_text(prompt: str, num_tokens: int) -> str:
    """What any scripted pod answers."""
    words = words_of(Prompt(prompt=msgspec.Raw(msgspec.json.encode(prompt))), num_tokens)
    return b"".join(words).decode()


async def until(condition, seconds: float = 5.0) -> None:
    """Wait until a condition holds; it may have to be awaited."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)


def build_router_config(**values: object) -> RouterConfig:
    """A configuration with these settings, whatever section they are in."""
    config = RouterConfig()
    sections = {}
    for section in fields(config):
        part = getattr(config, section.name)
        names = {field.name for field in fields(part)} & values.keys()
        sections[section.name] = dataclasses.replace(part, **{name: values.pop(name) for name in names})
    assert not values, f"there are no settings {values}"
    return RouterConfig(**sections)


@asynccontextmanager
async def router_site(*scripts: dict[str, object], decode: str | None = None, **values: object):
    """A router in front of one pod per script."""
    async with AsyncExitStack() as stack:
        pods = [
            await stack.enter_async_context(faulty_pod(**({"name": f"pod-{number}"} | script)))
            for number, script in enumerate(scripts)
        ]
        yield await stack.enter_async_context(open_router(pods, decode=decode, **values))


@asynccontextmanager
async def open_router(
    pods: Sequence[FaultyPod], *, decode: str | None = None, **values: object
) -> AsyncIterator[RouterSite]:
    """A router in front of these pods."""
    addresses = decode or ",".join(f"127.0.0.1:{pod.port}" for pod in pods)
    service = build_service(build_router_config(decode=addresses, **values), version=penstock.__version__)
    await service.watch.start()
    server = build_server(service)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    port = listener.getsockname()[1]
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listener])
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False, limits=limits
        ) as http:
            yield RouterSite(service, http, port, list(pods))
    finally:
        server.force_exit = True
        await server.shutdown([listener])
        for task in list(server.server_state.tasks):
            task.cancel()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
        await service.watch.close()
        await service.upstream.session.close()
