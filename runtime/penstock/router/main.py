"""A worker of the router: uvicorn on the socket that it inherits, and a `Service` behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any

import setproctitle
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock import envs
from penstock.errors import EngineFailure, PenstockError
from penstock.inherited_server import KEEP_ALIVE_SECONDS, InheritedServer, calm_collector
from penstock.internal.credentials import ClusterKeys
from penstock.lifetime import die_with_parent
from penstock.logs import configure, event
from penstock.router.answers import Answers
from penstock.router.app import RouterApp
from penstock.router.config import RouterConfig
from penstock.router.door import Door
from penstock.router.endpoints import EndpointTable
from penstock.router.launch import Launch, WorkerArguments
from penstock.router.ledger import Ledger
from penstock.router.metrics import Metrics
from penstock.router.service import Service
from penstock.router.siblings import Siblings
from penstock.router.sources import build_sources
from penstock.router.tenants import Tenants
from penstock.router.tls import CHECK_SECONDS, Certificate
from penstock.router.upstream import Upstream
from penstock.router.watch import Watch
from penstock.signals import Ending

WRITE_BUFFER = 256 << 10  # bytes that a slow reader may be behind before its pod has to wait, too
LAST_BYTES_SECONDS = 3  # for connections to close after the last answer
TICK_SECONDS = 0.25
QUIET_SECONDS = 1.0  # without a new request, after which the linger is over
FEWEST_FILES = 1 << 16  # descriptors wanted: two for each stream

_log = logging.getLogger("penstock.router")


class PatientProtocol(HttpToolsProtocol):
    """HTTP whose connections take a whole answer of usual length at once.

    So a pod is done with the request of a slow reader when it has generated it, and the place there is free again.
    """

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)


def build_service(config: RouterConfig, *, version: str, folder: Path | None = None, slot: int = 0) -> Service:
    """A worker's state, not started; needs a running loop. Raises `ConfigError`."""
    clock, pods, num_workers = time.monotonic, config.pods, config.listener.workers
    keys = ClusterKeys(None if pods.cluster_key_file is None else Path(pods.cluster_key_file))
    keys_file = config.tenants.api_keys_file
    tenants = Tenants(None if keys_file is None else Path(keys_file), envs.api_keys(), keys)
    ledger = Ledger(folder, worker=slot, num_workers=num_workers)
    table = EndpointTable(keys, ledger, clock=clock, level=logging.DEBUG if slot else logging.INFO)
    return Service(
        config=config,
        version=version,
        table=table,
        watch=Watch(table, build_sources(config.pods, clock), keys=keys, ledger=ledger, clock=clock),
        door=Door(table, ledger, config.admission, config.tenants, clock=clock, num_workers=num_workers),
        tenants=tenants,
        metrics=Metrics(table, ledger, version=version, folder=folder, slot=slot),
        upstream=Upstream.build(keys, clock),
        answers=Answers(
            seconds=config.tenants.idempotency_seconds,
            max_bytes=config.tenants.idempotency_memory // num_workers,
            clock=clock,
        ),
        siblings=Siblings(folder if num_workers > 1 else None, slot, num_workers),
        clock=clock,
    )


def build_server(
    service: Service, certificate: Certificate | None = None, *, is_inner: bool = False
) -> InheritedServer:
    """An HTTP server for clients, or for the other workers; not started."""
    config = uvicorn.Config(
        RouterApp(service, is_inner=is_inner),
        http=PatientProtocol,
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=2048,
        timeout_graceful_shutdown=LAST_BYTES_SECONDS,
    )
    config.load()
    if certificate is not None:
        config.ssl = certificate.context
    return InheritedServer(config)


class Worker:
    """Serves until drained."""

    def __init__(self, service: Service, listener: socket.socket, certificate: Certificate | None) -> None:
        self._service, self._certificate = service, certificate
        self._servers = [(build_server(service, certificate), listener)]
        if (path := service.siblings.socket_path) is not None:
            self._servers.append((build_server(service, is_inner=True), unix_listener(path)))

    async def run(self, report_fd: int) -> None:
        """After SIGTERM running answers get the grace period, after SIGINT they end at once."""
        end = Ending()
        end.listen()
        await self._service.watch.start()
        serving = [asyncio.create_task(server.serve([listener])) for server, listener in self._servers]
        ticking = asyncio.create_task(self._tick())
        while not all(server.started for server, _ in self._servers):
            await asyncio.sleep(0.005)
        with contextlib.suppress(BrokenPipeError):
            os.write(report_fd, b"1")
        os.close(report_fd)
        calm_collector()
        await end.asked.wait()
        await self._drain(end.hurried)
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(*serving)
        ticking.cancel()
        await self._service.watch.close()
        await self._service.upstream.session.close()
        await self._service.siblings.close()

    async def _tick(self) -> None:
        """What is to be looked after now and then: what other workers show of this one, and the certificate."""
        service, checked_at = self._service, self._service.clock()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            service.metrics.set_held(service.door.num_waiting)
            if self._certificate is not None and service.clock() - checked_at >= CHECK_SECONDS:
                checked_at = service.clock()
                self._certificate.refresh()

    async def _drain(self, hurried: asyncio.Event) -> None:
        """Not ready at once; take what still comes for a moment; then let what runs finish."""
        service = self._service
        service.is_draining = True
        began, settings = service.clock(), service.config.listener
        event(_log, "drain.begun", in_flight=service.num_in_flight)
        linger = min(settings.linger_seconds, settings.shutdown_grace)
        while not hurried.is_set():
            now = service.clock()
            is_quiet = now - max(began, service.last_arrival) >= min(QUIET_SECONDS, linger)
            service.is_closed = service.is_closed or is_quiet or now - began >= linger
            if now - began >= settings.shutdown_grace or (service.is_closed and not service.num_in_flight):
                break
            await asyncio.sleep(0.05)
        service.is_closed = True
        if service.num_in_flight:
            event(_log, "drain.cut", level=logging.WARNING, in_flight=service.num_in_flight)
            service.cut_all(EngineFailure("the router is shutting down"))
            await asyncio.sleep(0.1)


def unix_listener(path: Path) -> socket.socket:
    """A new socket under this path, in the place of one that a dead worker left."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1024)
    return listener


def allow_many_files() -> None:
    """As many open descriptors as this user may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, FEWEST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(launch: Launch, arguments: WorkerArguments) -> None:
    """Build everything in the loop it belongs to, and run it."""
    settings = launch.config.listener
    certificate = None
    if settings.tls_certificate is not None and settings.tls_key is not None:
        certificate = Certificate(Path(settings.tls_certificate), Path(settings.tls_key))
    service = build_service(launch.config, version=launch.version, folder=Path(launch.run_dir), slot=arguments.slot)
    listener = socket.socket(fileno=os.dup(arguments.listen_fd))
    os.close(arguments.listen_fd)
    await Worker(service, listener, certificate).run(arguments.report_fd)


def main(words: list[str]) -> int:
    """The process from start to exit code; 0 after a drain."""
    arguments = WorkerArguments.parse(words)
    setproctitle.setproctitle(f"penstock:router-{arguments.slot}")
    die_with_parent(arguments.parent)
    configure(f"router-{arguments.slot}", envs.log_level())
    allow_many_files()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(Launch.load(arguments.launch), arguments))
    except PenstockError as error:
        print(f"penstock: error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
