"""Bodies of internal calls."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from penstock.errors import InvalidRequest
from penstock.server.pod_exchange import PodExchange

ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):\d{1,5}")
MAX_ADDRESS = 300  # characters

T = TypeVar("T", bound=msgspec.Struct)


def decode_body(kind: type[T], exchange: PodExchange) -> T:
    """The body, which the gate has read, as a `kind`; raises `InvalidRequest`."""
    try:
        return msgspec.msgpack.decode(exchange.body or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is no {kind.__name__}: {error}"[:200]) from None


def check_address(address: str, field: str) -> str:
    """An address of another pod, `host:port`, or nothing; raises `InvalidRequest`."""
    if address and (len(address) > MAX_ADDRESS or not ADDRESS.fullmatch(address)):
        raise InvalidRequest(f"{field}: {address[:100]!r} is not host:port", field)
    return address
