"""What the router does with a request, path by path."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from penstock.errors import ModelUnknown, Overloaded
from penstock.internal.fleet import Fleet
from penstock.internal.protocol import RoutedCall
from penstock.router.answers import digest_of
from penstock.router.plain import ask_plainly
from penstock.router.relay import Relay
from penstock.router.service import Service
from penstock.router.tenants import Tenant
from penstock.server.exchange import JSON, Exchange

IDEMPOTENCY_KEY = b"idempotency-key"
PREFILLER = b"x-prefiller-host-port"
INNER = "penstock.inner"  # in the scope of a request that another worker forwards
LOOK_SECONDS = 0.05  # between two looks whether a pod has come
LATER = 5.0  # seconds after which a client may try again


async def generate(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """A completion or a chat completion, from whichever pod is best, and from another if that one dies."""
    key = exchange.header(IDEMPOTENCY_KEY)
    if key is not None and service.config.tenants.idempotency_seconds:
        await generate_once(service, exchange, tenant, key)
        return
    with admitted(service, tenant):
        body = await read_body(service, exchange)
        with held(service, body):
            exchange.watch()
            await Relay(service, exchange, build_call(service, exchange, tenant, body), tenant.name).run()


async def generate_once(service: Service, exchange: Exchange, tenant: Tenant, key: bytes) -> None:
    """The same, but a request that came before, with the same key, gets the answer of the first one."""
    body = await read_body(service, exchange)
    exchange.watch()
    owner = None if INNER in exchange.scope else service.siblings.owner(tenant.name, key)
    if owner is not None:
        await service.siblings.forward(owner, exchange, body)
        return
    digest = digest_of(exchange.path, body)
    recording = service.answers.find(tenant.name, key, digest)
    if recording is None:
        recording = service.answers.record(exchange.request_id, digest)
        relay = Relay(service, recording, build_call(service, exchange, tenant, body), tenant.name)
        with ExitStack() as stack:
            stack.enter_context(admitted(service, tenant))
            stack.enter_context(held(service, body))
            service.answers.begin(tenant.name, key, recording, relay.run, stack.pop_all().close)
    else:
        service.metrics.count_repeat()
    await recording.follow(exchange)


async def ask(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """What any pod can answer alike, at once."""
    with admitted(service, tenant):
        body = await read_body(service, exchange)
        with held(service, body):
            exchange.watch()
            told = msgspec.structs.replace(build_call(service, exchange, tenant, body), is_plain=True)
            await ask_plainly(service, exchange, told, tenant.name)


async def list_models(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """The one model that the pods serve."""
    await exchange.respond_json({"object": "list", "data": [await model_value(service)]})


async def show_model(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """The model that the path names; its name may hold slashes."""
    value, name = await model_value(service), exchange.path.removeprefix("/v1/models/")
    if name != value["id"]:
        raise ModelUnknown(f"the model {name[:100]!r} is not served here; {value['id']!r} is", "model")
    await exchange.respond_json(value)


async def model_value(service: Service) -> dict[str, Any]:
    """The model as a pod shows it, as soon as one has been there. Raises `Overloaded`."""
    began = service.clock()
    while service.table.model is None:
        if service.clock() - began >= service.config.admission.hold_seconds:
            raise Overloaded("no pod has been there yet", LATER)
        await asyncio.sleep(LOOK_SECONDS)
    return {
        "id": service.table.model,
        "object": "model",
        "created": service.created,
        "owned_by": "penstock",
        "root": service.table.model,
        "parent": None,
        "max_model_len": service.table.max_model_len,
    }


async def version(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """Which Penstock this is."""
    await exchange.respond_json({"version": service.version})


async def metrics(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """Prometheus' text format."""
    service.metrics.set_held(service.door.num_waiting)
    await exchange.respond(service.metrics.page(), CONTENT_TYPE_PLAIN_0_0_4.encode())


async def fleet(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """How the pods are doing now, and the router."""
    await service.watch.refresh()
    service.metrics.set_held(service.door.num_waiting)
    value = Fleet(endpoints=[one.describe() for one in service.table], router=service.metrics.totals())
    await exchange.respond(msgspec.json.encode(value), JSON)


async def livez(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """The process answers."""
    await exchange.respond_json({"status": "alive"})


async def readyz(service: Service, exchange: Exchange, tenant: Tenant) -> None:
    """200 while requests are taken, be it only to hold them; 503 from SIGTERM on."""
    if service.is_draining:
        await exchange.respond_json({"status": "draining"}, status=503)
    else:
        await exchange.respond_json({"status": "ready"})


@contextmanager
def admitted(service: Service, tenant: Tenant) -> Iterator[None]:
    """Count a request, for its tenant and for the drain. Raises `TenantLimit`, or `Overloaded` after the drain."""
    if service.is_closed:
        raise Overloaded("the router is shutting down")
    leave = service.door.register(tenant.name)
    service.count_in_flight(1)
    try:
        yield
    finally:
        service.count_in_flight(-1)
        leave()


async def read_body(service: Service, exchange: Exchange) -> bytes:
    """The body. Raises `Overloaded` if there is no memory for it, `RequestTooLarge`, `ClientGone`."""
    declared = exchange.header(b"content-length")
    if declared is not None and declared.isdigit():
        check_memory(service, int(declared))
    return await exchange.read_body(service.config.listener.max_body_bytes)


def check_memory(service: Service, size: int) -> None:
    """Raise `Overloaded` if the bodies of all requests would be too much with this one."""
    limit = service.config.listener.max_body_bytes
    if size <= limit and service.body_bytes + size > service.max_body_memory:
        raise Overloaded("too many large requests are in flight", LATER)


@contextmanager
def held(service: Service, body: bytes) -> Iterator[None]:
    """Count the memory of a body that is kept, so that its request can be told again. Raises `Overloaded`."""
    check_memory(service, len(body))
    service.count_body(len(body))
    try:
        yield
    finally:
        service.count_body(-len(body))


def build_call(service: Service, exchange: Exchange, tenant: Tenant, body: bytes) -> RoutedCall:
    """What a pod is told."""
    prefiller = exchange.header(PREFILLER) if service.config.pods.trust_gateway else None
    return RoutedCall(
        path=exchange.path,
        body=body,
        request_id=exchange.request_id,
        salt=tenant.salt,
        prefiller=(prefiller or b"").decode("latin-1"),
    )
