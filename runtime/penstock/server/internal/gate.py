"""What every call on the internal port passes: the token of the service, and errors as the caller reads them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import msgspec
from starlette.types import ASGIApp

from penstock.errors import RequestError, Unauthorized
from penstock.internal.credentials import Claims
from penstock.internal.protocol import PREFILL_PATH, ROUTE_PATH
from penstock.server.gate import Gate
from penstock.server.internal.routed_exchange import RoutedExchange
from penstock.server.openai.errors import error_event, error_value
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

SMALL_BODY = 1 << 20  # bytes, of calls that say little
RECORD_BYTES = 256 << 20  # most that a routed call may tell again


class InternalGate(Gate):
    """Lets in who has the key. Nothing of a body is looked at before its token is known to be good."""

    def __init__(self, app: ASGIApp, serving: Serving, open_paths: Container[str]) -> None:
        super().__init__(app, serving, open_paths)
        self._limits: Mapping[str, int] = {
            ROUTE_PATH: 2 * serving.config.max_body_bytes + RECORD_BYTES,
            PREFILL_PATH: SMALL_BODY + 4 * serving.llm.spec.max_position,
        }

    async def admit(self, exchange: PodExchange) -> None:
        """Read the body and check the token; raises `Unauthorized`, and counts it."""
        serving = self._serving
        limit = self._limits.get(exchange.path, max(SMALL_BODY, serving.config.max_body_bytes))
        try:
            serving.cluster.claims(exchange.header(b"authorization"))  # else nobody's body is read
            exchange.body = await exchange.read_body(limit)
            exchange.claims = self._verify(exchange, exchange.body)
        except Unauthorized:
            serving.metrics.count_refusal()
            raise
        exchange.salt = exchange.claims.tenant or None

    def _verify(self, exchange: PodExchange, body: bytes) -> Claims:
        """A router may not have heard of the newest engine yet; what it routes is as good for that one."""
        serving, refusal = self._serving, Unauthorized("this call needs a token")
        for session in serving.llm.sessions[: 2 if exchange.path == ROUTE_PATH else 1] or ("",):
            try:
                header = exchange.header(b"authorization")
                return serving.cluster.verify(
                    header, purpose=exchange.path, body=body, session=session, now=serving.clock()
                )
            except Unauthorized as error:
                refusal = error
        raise refusal

    def count(self, exchange: PodExchange) -> None:
        """Only what a router passes on is what a client asked."""
        if exchange.path == ROUTE_PATH:
            super().count(exchange)

    async def answer_error(self, exchange: PodExchange, error: RequestError) -> None:
        """An answer in frames that has begun ends with one; everything else is answered as on the public port."""
        if not isinstance(exchange, RoutedExchange):
            await super().answer_error(exchange, error)
        elif exchange.status is None:
            await super().answer_error(exchange.outer, error)
        else:
            value: dict[str, Any] = error_value(error)
            payload = error_event(error) if exchange.has_shown else msgspec.json.encode(value)
            await exchange.end_error(error.status, payload)
