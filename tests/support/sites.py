"""The application behind a real HTTP server, over a scripted engine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import uvicorn

from penstock.config import ServerConfig
from penstock.engine.async_llm import AsyncLLM
from penstock.server.app import build_app
from support.scripted_llm import ScriptedEngine, build_scripted_llm

MAX_BODY = 200_000


@dataclass
class Site:
    """A running application, a client for it, and the engine behind it."""

    http: httpx.AsyncClient
    engine: ScriptedEngine
    llm: AsyncLLM
    port: int

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
async def open_site(api_keys: tuple[str, ...] = (), max_waiting: int = 64) -> AsyncIterator[Site]:
    """The application on a free port of this machine, over a scripted engine."""
    engine = ScriptedEngine()
    llm = build_scripted_llm(engine, max_waiting)
    llm.start()
    listener = socket.create_server(("127.0.0.1", 0))
    app = build_app(llm, server=ServerConfig(max_body_bytes=MAX_BODY), api_keys=api_keys)
    config = uvicorn.Config(app, http="httptools", ws="none", access_log=False, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])  # not `serve`, which takes signals and looks around only ten times a second
    port = listener.getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:
        yield Site(http, engine, llm, port)
    await server.shutdown([listener])
    llm.close()
