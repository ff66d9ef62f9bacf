"""The hop of llm-d's sidecar: which pod prefilled, or is to, comes and goes beside OpenAI's own fields.

A prefill pod is asked for one token with `{"do_remote_decode": true}` and answers where its blocks are; a decode pod
that is given that answer has the pod compute what it does not have itself, and pulls it, as from any other peer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import InvalidRequest
from penstock.server.internal.body import check_address
from penstock.server.internal.route import HANDLERS
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving
from penstock.server.story import Story

FIELD = "kv_transfer_params"
PREFILLER_HEADER = b"x-prefiller-host-port"


class TransferParams(msgspec.Struct, frozen=True, kw_only=True):
    """What one pod wants the other to know; fields of other systems are ignored."""

    do_remote_decode: bool = False
    do_remote_prefill: bool = False
    remote_host: str | None = None
    remote_port: int | str | None = None

    @property
    def prefiller(self) -> str:
        """Internal address of the pod that has the blocks, or empty."""
        is_known = self.do_remote_prefill and self.remote_host and self.remote_port
        return f"{self.remote_host}:{self.remote_port}" if is_known else ""


_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def pass_through(serving: Serving, exchange: PodExchange) -> None:
    """Answer as the public port would, with the prefill pod that a router or sidecar chose."""
    body = await exchange.read_body(serving.config.max_body_bytes)
    if exchange.claims is None:  # a sidecar is trusted to choose pods; who the client is says the client's key
        exchange.salt = serving.keys.salt(exchange.header(b"authorization"))
    exchange.body, params = split(body)
    extra = {}
    if params is not None and params.do_remote_decode:
        extra = {FIELD: whereabouts(serving, exchange)}
    header = (exchange.header(PREFILLER_HEADER) or b"").decode(errors="replace")
    prefiller = check_address(header or ("" if params is None else params.prefiller), FIELD)
    exchange.story = Story(prefiller=prefiller, extra=extra)
    await HANDLERS[exchange.path](serving, exchange)


def split(body: bytes) -> tuple[bytes, TransferParams | None]:
    """The client's own words, and what a sidecar added to them; raises `InvalidRequest`. Bodies that are wrong in
    other ways are left to the parser that knows all fields."""
    if FIELD.encode() not in body:
        return body, None
    try:
        fields = _DECODER.decode(body)
        given = fields.pop(FIELD, None)
        if given is None:
            return body, None
        params = msgspec.json.decode(given, type=TransferParams | None)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{FIELD}: {error}"[:200], FIELD) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    return msgspec.json.encode(fields), params


def whereabouts(serving: Serving, exchange: PodExchange) -> dict[str, Any]:
    """Where a decode pod finds the blocks of the prompt: at the address that our caller reached, by the names that
    blocks have in any pod, so that none are listed."""
    host, port = exchange.scope["server"]
    engine = serving.llm.engine
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_host": host,
        "remote_port": port,
        "remote_engine_id": "" if engine is None else engine.session,
        "remote_block_ids": [],
        "tp_size": 1,
    }
