"""An exchange as a pod's handlers need it: who calls on the internal port, what a router tells beside the client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from penstock.core.request import Request
from penstock.errors import RequestTooLarge
from penstock.internal.credentials import Claims
from penstock.server.exchange import AsgiMessage, Exchange
from penstock.server.story import Origin, Story, TakeDeltas


class PodExchange(Exchange):
    """On the public port nothing of this is ever set."""

    __slots__ = ("body", "claims", "is_muted", "story")

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[AsgiMessage]],
        send: Callable[[AsgiMessage], Awaitable[None]],
        *,
        request_id: str,
        started_at: float,
    ) -> None:
        super().__init__(scope, receive, send, request_id=request_id, started_at=started_at)
        self.body: bytes | None = None  # if somebody has read it already …
        self.claims: Claims | None = None  # … to check the token of an internal call
        self.story: Story | None = None  # what was told beside the client's words
        self.is_muted = False  # what is sent was sent before, by another pod

    async def read_body(self, limit: int) -> bytes:
        """The body, as `Exchange.read_body`, or as somebody passed it on."""
        if self.body is None:
            return await super().read_body(limit)
        if len(self.body) > limit:
            raise RequestTooLarge(f"the body has {len(self.body):,} bytes; at most {limit:,} are accepted")
        return self.body

    def recording(self, take: TakeDeltas, origin: Origin, requests: Sequence[Request]) -> TakeDeltas:
        """`take`, with records kept of what it takes where an answer may go on at another pod: here it may not."""
        return take

    def note_death(self) -> None:
        """An engine died while it worked on this, which goes on with the next one."""
