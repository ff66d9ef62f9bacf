"""POST /internal/v1/route: a client's request that comes through a router, for the first time or told again."""

from __future__ import annotations

from types import MappingProxyType

from penstock.engine.async_llm import MAX_DEATHS, POISON
from penstock.errors import EngineFailure, InvalidRequest
from penstock.internal.protocol import ROUTABLE, RoutedCall
from penstock.server.endpoint import EXCHANGE, Handler
from penstock.server.exchange import SANE_REQUEST_ID, ClientGone
from penstock.server.internal.body import check_address, decode_body
from penstock.server.internal.routed_exchange import RoutedExchange
from penstock.server.openai.chat import create_chat_completion
from penstock.server.openai.completions import create_completion
from penstock.server.openai.tokenize import detokenize, tokenize
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving
from penstock.server.story import Story

COMPLETIONS, CHAT = ROUTABLE
HANDLERS: MappingProxyType[str, Handler] = MappingProxyType(
    {COMPLETIONS: create_completion, CHAT: create_chat_completion}
)

PLAIN_HANDLERS: MappingProxyType[str, Handler] = MappingProxyType(
    {**HANDLERS, "/tokenize": tokenize, "/detokenize": detokenize}
)


async def route(serving: Serving, exchange: PodExchange) -> None:
    """Answer a client's request in frames, with what another pod needs to go on, or plainly."""
    call = decode_body(RoutedCall, exchange)
    handler = (PLAIN_HANDLERS if call.is_plain else HANDLERS).get(call.path)
    if handler is None:
        raise InvalidRequest(f"path: {call.path[:100]!r} cannot be routed", "path")
    if call.num_deaths >= MAX_DEATHS:
        raise EngineFailure(POISON)
    check_address(call.prefiller, "prefiller")
    if SANE_REQUEST_ID.fullmatch(call.request_id.encode(errors="replace")):
        exchange.request_id = call.request_id
    if call.is_plain:
        exchange.salt, exchange.body = call.salt, call.body
        exchange.story = Story(num_deaths=call.num_deaths, prefiller=call.prefiller)
        await handler(serving, exchange)
        return
    routed = RoutedExchange(exchange, call)
    exchange.scope[EXCHANGE] = routed
    serving.routed.add(routed)
    if call.records:
        serving.metrics.count_resumption()
    try:
        await handler(serving, routed)
    except ClientGone:
        if not routed.is_moved:
            raise
        serving.metrics.count_move()
        await routed.end_moved()
    finally:
        serving.routed.discard(routed)
        routed.close()
