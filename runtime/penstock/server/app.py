"""The front-end as an ASGI application: routes, authentication, and the one place where errors become answers.

Plain ASGI, because the path of a streamed token is the hottest one of the process: frameworks cost more there than
everything that we do ourselves.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from penstock.config import ServerConfig
from penstock.engine.async_llm import AsyncLLM
from penstock.errors import RequestError
from penstock.logs import event
from penstock.server import probes
from penstock.server.exchange import AsgiMessage, ClientGone, Exchange
from penstock.server.metrics import Metrics
from penstock.server.openai.chat import create_chat_completion
from penstock.server.openai.completions import create_completion
from penstock.server.openai.errors import (
    Internal,
    MethodNotAllowed,
    PathUnknown,
    error_event,
    error_headers,
    error_value,
)
from penstock.server.openai.models import MODELS_PATH, list_models, show_model
from penstock.server.openai.tokenize import detokenize, tokenize
from penstock.server.serving import Serving, model_name

Handler = Callable[[Serving, Exchange], Awaitable[None]]

SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

_log = logging.getLogger("penstock.api")


@dataclass(frozen=True, slots=True)
class Route:
    """What is served under a path. Everything but `is_open` routes needs a key where keys are set."""

    method: str
    handler: Handler
    is_open: bool = False


ROUTES = MappingProxyType(
    {
        "/v1/completions": Route("POST", create_completion),
        "/v1/chat/completions": Route("POST", create_chat_completion),
        MODELS_PATH: Route("GET", list_models),
        "/tokenize": Route("POST", tokenize),
        "/detokenize": Route("POST", detokenize),
        "/version": Route("GET", probes.version, is_open=True),
        "/metrics": Route("GET", probes.metrics, is_open=True),
        "/livez": Route("GET", probes.livez, is_open=True),
        "/readyz": Route("GET", probes.readyz, is_open=True),
        "/healthz": Route("GET", probes.healthz, is_open=True),
        "/": Route("GET", probes.root, is_open=True),
    }
)
ONE_MODEL = Route("GET", show_model)


def build_app(llm: AsyncLLM, *, server: ServerConfig, api_keys: tuple[str, ...], metrics: Metrics | None = None) -> App:
    """The application over one engine. `metrics` are given where several front-ends share theirs."""
    if metrics is None:
        metrics = Metrics(model=model_name(llm), block_size=llm.config.cache.block_size)
    return App(Serving.build(llm, server, api_keys, metrics))


class App:
    """Answers every request exactly once."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[AsgiMessage]],
        send: Callable[[AsgiMessage], Awaitable[None]],
    ) -> None:
        """One request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        exchange = Exchange(scope, receive, send, request_id=request_id_of(scope), started_at=self._serving.clock())
        try:
            await self._handle(exchange)
        except ClientGone:
            return
        except RequestError as error:
            await self._fail(exchange, error)
        except Exception:
            # The one broad place of the front-end: a defect of ours ends this request and no other.
            _log.exception("request.broken request_id=%s path=%r", exchange.request_id, exchange.path[:200])
            await self._fail(exchange, Internal(f"internal error; request id {exchange.request_id}"))
        finally:
            exchange.close()
            if exchange.status is not None:
                self._serving.metrics.count_response(exchange.status)

    async def _handle(self, exchange: Exchange) -> None:
        """Find the route, check the key before anything is read, and let the route answer."""
        path = exchange.path
        route = ROUTES.get(path) or (ONE_MODEL if path.startswith(f"{MODELS_PATH}/") else None)
        if route is None or not route.is_open:
            exchange.salt = self._serving.keys.salt(exchange.header(b"authorization"))
        if route is None:
            raise PathUnknown(f"nothing is served under {path[:100]!r}")
        if exchange.method != route.method:
            raise MethodNotAllowed(f"{path} is served with {route.method} only", route.method)
        await route.handler(self._serving, exchange)

    async def _fail(self, exchange: Exchange, error: RequestError) -> None:
        """Turn an error into an answer, or into the end of a stream that has begun."""
        if error.status >= 500:
            event(_log, "request.failed", level=logging.WARNING, request_id=exchange.request_id, why=str(error))
        if exchange.is_streaming:
            await exchange.end_stream(error_event(error))
        elif exchange.status is None:
            await exchange.respond_json(error_value(error), error.status, error_headers(error))

    async def _live(
        self, receive: Callable[[], Awaitable[AsgiMessage]], send: Callable[[AsgiMessage], Awaitable[None]]
    ) -> None:
        """The server's own start and end."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._serving.threads.shutdown(wait=False, cancel_futures=True)
        await send({"type": "lifespan.shutdown.complete"})


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The client's own `X-Request-Id` if it is sane, else a new one."""
    given: bytes = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if SANE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
