"""What every request passes: request id, authentication, and the one place where errors become answers."""

from __future__ import annotations

import logging
from collections.abc import Container

from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.errors import Internal, RequestError
from penstock.logs import event
from penstock.server.endpoint import EXCHANGE
from penstock.server.exchange import ClientGone, request_id_of
from penstock.server.openai.errors import error_event, error_headers, error_value
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

_log = logging.getLogger("penstock.api")


class Gate:
    """ASGI middleware that answers every request exactly once, whatever happens behind it.

    A key is checked before the router and before anything is read. Only the paths that are known to be open need none,
    so a path that nobody thought of needs one.
    """

    def __init__(self, app: ASGIApp, serving: Serving, open_paths: Container[str]) -> None:
        self._app, self._serving, self._open_paths = app, serving, open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        serving = self._serving
        exchange = PodExchange(scope, receive, send, request_id=request_id_of(scope), started_at=serving.clock())
        scope[EXCHANGE] = exchange
        try:
            if exchange.path not in self._open_paths:
                await self.admit(exchange)
            await self._app(scope, receive, exchange.forward)
        except ClientGone:
            return
        except RequestError as error:
            await self._fail(scope[EXCHANGE], error)
        except Exception:
            # The one broad place of the front-end: a defect of ours ends this request and no other.
            _log.exception("request.broken request_id=%s path=%r", exchange.request_id, exchange.path[:200])
            await self._fail(scope[EXCHANGE], Internal(f"internal error; request id {exchange.request_id}"))
        finally:
            del scope[EXCHANGE]  # no reference cycle for the garbage collector
            exchange.close()
            self.count(exchange)

    async def admit(self, exchange: PodExchange) -> None:
        """Find out who asks; raises `Unauthorized`."""
        exchange.salt = self._serving.keys.salt(exchange.header(b"authorization"))

    def count(self, exchange: PodExchange) -> None:
        """Note how it was answered."""
        if exchange.status is not None:
            self._serving.metrics.count_response(exchange.status)

    async def _fail(self, exchange: PodExchange, error: RequestError) -> None:
        if error.status >= 500:
            event(_log, "request.failed", level=logging.WARNING, request_id=exchange.request_id, why=str(error))
        await self.answer_error(exchange, error)

    async def answer_error(self, exchange: PodExchange, error: RequestError) -> None:
        """Turn an error into an answer, or into the end of a stream that has begun."""
        if exchange.is_streaming:
            await exchange.end_stream(error_event(error))
        elif exchange.status is None:
            await exchange.respond_json(error_value(error), error.status, error_headers(error))
