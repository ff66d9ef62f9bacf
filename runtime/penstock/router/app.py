"""The router as an ASGI application: the table of paths, and the gate that every request passes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from penstock.errors import Internal, MethodNotAllowed, PathUnknown, RequestError
from penstock.logs import event
from penstock.router import handlers
from penstock.router.service import Service
from penstock.router.tenants import Tenant
from penstock.server.exchange import AsgiMessage, ClientGone, Exchange, request_id_of
from penstock.server.openai.errors import error_event, error_headers, error_value

Handler = Callable[[Service, Exchange, Tenant], Awaitable[None]]
Send = Callable[[AsgiMessage], Awaitable[None]]
Receive = Callable[[], Awaitable[AsgiMessage]]

CLOSE = (b"connection", b"close")

_log = logging.getLogger("penstock.router")


@dataclass(frozen=True, slots=True)
class Path:
    """What is served under a path. Only `is_open` ones need no key where keys are set."""

    method: str
    handler: Handler
    is_open: bool = False


PATHS = {
    "/v1/completions": Path("POST", handlers.generate),
    "/v1/chat/completions": Path("POST", handlers.generate),
    "/tokenize": Path("POST", handlers.ask),
    "/detokenize": Path("POST", handlers.ask),
    "/v1/models": Path("GET", handlers.list_models),
    "/version": Path("GET", handlers.version, is_open=True),
    "/metrics": Path("GET", handlers.metrics, is_open=True),
    "/fleet": Path("GET", handlers.fleet, is_open=True),
    "/livez": Path("GET", handlers.livez, is_open=True),
    "/readyz": Path("GET", handlers.readyz, is_open=True),
    "/healthz": Path("GET", handlers.livez, is_open=True),
}
MODEL = Path("GET", handlers.show_model)
NOBODY = Tenant("", None)  # who asks under an open path


class RouterApp:
    """Answers every request exactly once, whatever happens behind it. A key is checked before anything is read."""

    def __init__(self, service: Service, *, is_inner: bool = False) -> None:
        """`is_inner`: for the other workers, which forward what this one owns."""
        self._service, self._is_inner = service, is_inner

    async def __call__(self, scope: AsgiMessage, receive: Receive, send: Send) -> None:
        """One request."""
        assert scope["type"] == "http", f"the server is set up for HTTP alone, not {scope['type']}"
        service = self._service
        if self._is_inner:
            scope[handlers.INNER] = True
        if service.is_draining:
            send = closing(send)
        exchange = Exchange(scope, receive, send, request_id=request_id_of(scope), started_at=service.clock())
        try:
            await self._answer(exchange)
        except ClientGone:
            service.metrics.count_disconnect()
        except RequestError as error:
            service.metrics.count_error(error, is_up=service.table.is_up)
            await self._fail(exchange, error)
        except Exception:
            # The one broad place of the router: a defect of ours ends this request and no other.
            _log.exception("request.broken request_id=%s path=%r", exchange.request_id, exchange.path[:200])
            await self._fail(exchange, Internal(f"internal error; request id {exchange.request_id}"))
        finally:
            exchange.close()
            if exchange.status is not None:
                service.metrics.count_response(exchange.status)

    async def _answer(self, exchange: Exchange) -> None:
        path, method = find(exchange.path), exchange.scope["method"]
        tenant = NOBODY
        if path is None or not path.is_open:
            tenant = self._service.tenants.identify(exchange.header(b"authorization"))
        if path is None:
            raise PathUnknown(f"nothing is served under {exchange.path[:100]!r}")
        if method != path.method and (method, path.method) != ("HEAD", "GET"):
            allowed = "GET, HEAD" if path.method == "GET" else path.method
            raise MethodNotAllowed(f"{exchange.path[:100]} is served with {allowed} only", allowed)
        await path.handler(self._service, exchange, tenant)

    async def _fail(self, exchange: Exchange, error: RequestError) -> None:
        """Turn an error into an answer, or into the end of a stream that has begun."""
        if error.status >= 500 and error.status != 503:
            event(_log, "request.failed", level=logging.WARNING, request_id=exchange.request_id, why=str(error))
        if exchange.is_streaming:
            await exchange.end_stream(error_event(error))
        elif exchange.status is None:
            await exchange.respond_json(error_value(error), error.status, error_headers(error))


def find(path: str) -> Path | None:
    """What is served under a path."""
    found = PATHS.get(path)
    return MODEL if found is None and path.startswith("/v1/models/") else found


def closing(send: Send) -> Send:
    """Let the client know that this connection is not to be used again."""

    async def send_closing(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], CLOSE]}
        await send(message)

    return send_closing
