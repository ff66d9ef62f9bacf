"""The front-end process: uvicorn on the socket that it inherits, and an `AsyncLLM` behind it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator

import uvicorn
import uvloop

from penstock import envs
from penstock.engine.async_llm import AsyncLLM
from penstock.engine.child import ChildArguments, begin
from penstock.engine.client import EngineClient
from penstock.engine.launch import ApiStarted, ChildFailed, Launch, ReportWriter
from penstock.errors import PenstockError
from penstock.logs import configure, event
from penstock.models.spec import ModelSpec
from penstock.server.app import build_app
from penstock.server.metrics import Metrics
from penstock.server.serving import model_name
from penstock.tokenizer import Tokenizer

LAST_BYTES_SECONDS = 3  # for connections to close after the last stream ended

_log = logging.getLogger("penstock.api")


class InheritedServer(uvicorn.Server):
    """uvicorn, with the signals left to us: SIGTERM drains here, it does not close the listening socket at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


def build_server(llm: AsyncLLM, launch: Launch, slot: int) -> InheritedServer:
    """The HTTP server of this front-end, not started. Any front-end's /metrics tells of all of them."""
    block_size = launch.config.cache.block_size
    metrics = Metrics(model=model_name(llm), block_size=block_size, folder=launch.run_path, slot=slot)
    config = uvicorn.Config(
        build_app(llm, server=launch.config.server, api_keys=envs.api_keys(), metrics=metrics),
        http="httptools",
        loop="uvloop",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=LAST_BYTES_SECONDS,
    )
    return InheritedServer(config)


def build_llm(launch: Launch, client: int) -> AsyncLLM:
    """This front-end's view of the engine, not started."""
    folder = launch.folder_path
    return AsyncLLM(
        config=launch.config,
        spec=ModelSpec.from_folder(folder),
        tokenizer=Tokenizer.from_folder(folder),
        client=EngineClient(launch, client),
        max_model_len=launch.max_model_len,
    )


async def serve(llm: AsyncLLM, server: InheritedServer, listener: socket.socket, reports: ReportWriter) -> None:
    """Serve until drained: after SIGTERM running streams get the grace period, after SIGINT they end at once."""
    loop = asyncio.get_running_loop()
    is_asked_to_end, is_hurried = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, is_asked_to_end.set)

    def hurry() -> None:
        is_asked_to_end.set()
        is_hurried.set()

    loop.add_signal_handler(signal.SIGINT, hurry)
    llm.start()
    serving = asyncio.create_task(server.serve([listener]))
    announcing = asyncio.create_task(announce(llm, server, reports))
    ending = asyncio.create_task(is_asked_to_end.wait())
    await asyncio.wait((serving, ending), return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    ending.cancel()
    if not serving.done():
        await drain(llm, is_hurried)
        server.should_exit = True
    await serving
    llm.close()


async def announce(llm: AsyncLLM, server: InheritedServer, reports: ReportWriter) -> None:
    """Report readiness to the supervisor, then take what start-up left behind out of the garbage collector's view."""
    await llm.wait_ready()
    while not server.started:
        await asyncio.sleep(0.01)
    reports.send(ApiStarted())
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # requests leave few cycles; the default runs several times per busy step


async def drain(llm: AsyncLLM, is_hurried: asyncio.Event) -> None:
    """Take nothing new and let what runs finish, for at most the grace period; the rest ends with an error."""
    llm.drain()
    event(_log, "drain.begun", in_flight=llm.num_in_flight)
    idle, hurried = asyncio.create_task(llm.wait_idle()), asyncio.create_task(is_hurried.wait())
    grace = llm.config.server.shutdown_grace
    await asyncio.wait((idle, hurried), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
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
        server = build_server(llm, launch, arguments.slot)
    except PenstockError as error:
        reports.send(ChildFailed(message=str(error), exit_code=error.exit_code))
        return error.exit_code
    listener = socket.socket(fileno=os.dup(arguments.listen_fd))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(llm, server, listener, reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
