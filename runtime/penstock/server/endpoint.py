"""A route: where it is served, what it takes, who may ask, and the handler behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from penstock.server.openai.protocol import Body
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

Handler = Callable[[Serving, PodExchange], Awaitable[None]]

EXCHANGE = "penstock.exchange"  # key of the request's `PodExchange` in its ASGI scope


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is served under a path, in Starlette's notation. Only `is_open` ones need no key where keys are set."""

    method: str
    path: str
    handler: Handler
    body: type[Body] | None = None
    is_open: bool = False

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    def build_route(self, serving: Serving) -> Route:
        """The route to register."""
        name = self.handler.__name__
        return Route(self.path, HandlerApp(serving, self.handler), methods=[self.method], name=name)


class HandlerApp:
    """A handler as an ASGI application.

    FastAPI's own path functions would parse with pydantic (see `openai/protocol.py` for why not) and wrap every event
    of a stream; this hands the handler the raw connection.
    """

    __slots__ = ("_handler", "_serving")

    def __init__(self, serving: Serving, handler: Handler) -> None:
        self._serving, self._handler = serving, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the handler answer the exchange that the gate has opened."""
        await self._handler(self._serving, scope[EXCHANGE])
