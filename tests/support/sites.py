"""The application behind a real HTTP server, over a scripted engine."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock.config import ServerConfig
from penstock.engine.async_llm import AsyncLLM
from penstock.internal.protocol import KvEndpoint
from penstock.server.app import build_app
from penstock.server.internal.app import build_internal_app
from penstock.server.internal.guarded_protocol import GuardedProtocol
from penstock.server.serving import Serving
from support.scripted_llm import ScriptedEngine, build_scripted_llm

MAX_BODY = 200_000


@dataclass
class Site:
    """A running application, a client for it, and the engine behind it."""

    http: httpx.AsyncClient
    engine: ScriptedEngine
    llm: AsyncLLM
    port: int
    serving: Serving
    internal: httpx.AsyncClient

    @property
    def internal_port(self) -> int:
        return self.internal.base_url.port

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def complete(self, prompt: object, **extra: object) -> dict:
        reply = await self.post("/v1/completions", prompt=prompt, **extra)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def chat(self, text: object, **extra: object) -> dict:
        messages = [{"role": "user", "content": text}]
        reply = await self.post("/v1/chat/completions", messages=messages, **extra)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def metric(self, sample: str) -> float:
        page = (await self.http.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith((sample + " ", sample + "{"))]
        assert lines, f"there is no {sample}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@asynccontextmanager
async def listening(app: ASGIApp, protocol: Callable[..., asyncio.Protocol]) -> AsyncIterator[httpx.AsyncClient]:
    """An application on a free port of this machine, and a client for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, ws="none", access_log=False, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])  # not `serve`, which takes signals and looks around only ten times a second
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
            yield http
    finally:
        await server.shutdown([listener])


@asynccontextmanager
async def open_site(
    api_keys: tuple[str, ...] = (),
    *,
    max_waiting: int = 64,
    run_path: Path | None = None,
    endpoint: KvEndpoint | None = None,
    **settings: object,
) -> AsyncIterator[Site]:
    """Both applications on free ports of this machine, over a scripted engine. `settings` are of `ServerConfig`."""
    engine = ScriptedEngine(endpoint=endpoint)
    llm = build_scripted_llm(engine, max_waiting, run_path)
    llm.start()
    config = ServerConfig(**{"max_body_bytes": MAX_BODY, "internal_port": 1} | settings)
    serving = Serving.build(llm, config, api_keys, run_path=run_path)
    guarded = functools.partial(GuardedProtocol, on_garbage=serving.metrics.count_refusal)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(listening(build_app(serving), HttpToolsProtocol))
        internal = await stack.enter_async_context(listening(build_internal_app(serving), guarded))
        yield Site(http, engine, llm, http.base_url.port, serving, internal)
    llm.close()
