"""The front-end process: uvicorn on the socket that it inherits, and an `AsyncLLM` behind it."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock import envs
from penstock.engine.async_llm import AsyncLLM
from penstock.engine.child import ChildArguments, begin
from penstock.engine.client import EngineClient
from penstock.engine.drain_flag import DrainFlag
from penstock.engine.launch import ApiStarted, ChildFailed, Launch, ReportWriter
from penstock.errors import PenstockError
from penstock.inherited_server import KEEP_ALIVE_SECONDS, InheritedServer, calm_collector
from penstock.logs import configure, event
from penstock.models.spec import ModelSpec
from penstock.server.app import build_app
from penstock.server.internal.app import build_internal_app
from penstock.server.internal.guarded_protocol import GuardedProtocol
from penstock.server.metrics import Metrics
from penstock.server.serving import Serving, model_name
from penstock.signals import Ending
from penstock.tokenizer import Tokenizer

MOVE_SECONDS = 2.0  # before the end of the grace period: what has not ended goes on at another pod
LAST_BYTES_SECONDS = 3  # for connections to close after the last stream ended

_log = logging.getLogger("penstock.api")


def build_serving(llm: AsyncLLM, launch: Launch, slot: int) -> Serving:
    """What all handlers of this front-end share. Any front-end's /metrics tells of all of them."""
    config = launch.config
    metrics = Metrics(
        model=model_name(llm),
        role=config.transfer.role,
        block_size=config.cache.block_size,
        folder=launch.run_path,
        slot=slot,
    )
    return Serving.build(llm, config.server, envs.api_keys(), metrics=metrics, run_path=launch.run_path)


def build_server(app: ASGIApp, protocol: Callable[..., asyncio.Protocol] = HttpToolsProtocol) -> InheritedServer:
    """An HTTP server for an application, not started."""
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], protocol),
        loop="uvloop",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_BYTES_SECONDS,
    )
    return InheritedServer(config)


def build_servers(serving: Serving, arguments: ChildArguments) -> dict[InheritedServer, socket.socket]:
    """The server of the public port, and that of the internal one if there is one, with their sockets."""
    servers = {build_server(build_app(serving)): arguments.listen_fd}
    if arguments.internal_fd >= 0:
        guarded = functools.partial(GuardedProtocol, on_garbage=serving.metrics.count_refusal)
        servers[build_server(build_internal_app(serving), guarded)] = arguments.internal_fd
    return {server: socket.socket(fileno=os.dup(descriptor)) for server, descriptor in servers.items()}


def build_llm(launch: Launch, client: int) -> AsyncLLM:
    """This front-end's view of the engine, not started."""
    folder = launch.folder_path
    return AsyncLLM(
        config=launch.config,
        spec=ModelSpec.from_folder(folder),
        tokenizer=Tokenizer.from_folder(folder),
        client=EngineClient(launch, client),
        max_model_len=launch.max_model_len,
        drain_flag=DrainFlag(launch.run_path),
    )


async def serve(serving: Serving, servers: Mapping[InheritedServer, socket.socket], reports: ReportWriter) -> None:
    """Serve until drained: after SIGTERM running streams get the grace period, after SIGINT they end at once."""
    llm, end = serving.llm, Ending()
    end.listen()
    llm.start()
    running = [asyncio.create_task(server.serve([listener])) for server, listener in servers.items()]
    announcing = asyncio.create_task(announce(llm, servers, reports))
    ending = asyncio.create_task(end.asked.wait())
    await asyncio.wait((*running, ending), return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    ending.cancel()
    if not any(task.done() for task in running):
        await drain(serving, end.hurried)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*running)
    llm.close()


async def announce(llm: AsyncLLM, servers: Iterable[InheritedServer], reports: ReportWriter) -> None:
    """Report readiness to the supervisor."""
    await llm.wait_ready()
    while not all(server.started for server in servers):
        await asyncio.sleep(0.01)
    reports.send(ApiStarted())
    calm_collector()


async def drain(serving: Serving, is_hurried: asyncio.Event) -> None:
    """Take nothing new and let what runs finish, for at most the grace period.

    Shortly before its end, what came through a router is handed over to another pod; the rest ends with an error.
    """
    llm = serving.llm
    llm.drain()
    event(_log, "drain.begun", in_flight=llm.num_in_flight)
    idle, hurried = asyncio.create_task(llm.wait_idle()), asyncio.create_task(is_hurried.wait())
    grace = serving.config.shutdown_grace
    moving = min(MOVE_SECONDS, grace / 4)
    await asyncio.wait((idle, hurried), timeout=grace - moving, return_when=asyncio.FIRST_COMPLETED)
    if serving.routed:
        event(_log, "drain.moved", requests=len(serving.routed))
        await asyncio.gather(*(routed.move() for routed in list(serving.routed)))
        await asyncio.wait((idle, hurried), timeout=moving, return_when=asyncio.FIRST_COMPLETED)
    for task in (idle, hurried):
        task.cancel()
    if llm.num_in_flight:
        event(_log, "drain.cut", level=logging.WARNING, in_flight=llm.num_in_flight)
        llm.fail_all("the server is shutting down")


def main(words: list[str]) -> int:
    """The process from start to exit code; 0 after a drain."""
    arguments = ChildArguments.parse(words)
    launch, reports = begin(f"penstock:api-{arguments.slot}", arguments)
    configure(f"api-{arguments.slot}", envs.log_level())
    try:
        llm = build_llm(launch, arguments.number)
        serving = build_serving(llm, launch, arguments.slot)
    except PenstockError as error:
        reports.send(ChildFailed(message=str(error), exit_code=error.exit_code))
        return error.exit_code
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(serving, build_servers(serving, arguments), reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
