"""Errors as OpenAI's clients know them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from penstock.errors import MethodNotAllowed, ModelUnknown, Overloaded, RequestError, Unauthorized
from penstock.server.exchange import Headers

CODES: dict[type[RequestError], str] = {ModelUnknown: "model_not_found", Unauthorized: "invalid_api_key"}


def error_value(error: RequestError) -> dict[str, Any]:
    """The JSON of an error."""
    code = CODES.get(type(error))
    return {"error": {"message": str(error), "type": error.kind, "param": error.field, "code": code}}


def error_event(error: RequestError) -> bytes:
    """An error in the middle of a stream, and the end of that stream."""
    return b"data: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode(error_value(error))


def error_headers(error: RequestError) -> Headers:
    """What belongs beside an error's status."""
    match error:
        case Overloaded():
            return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after)))]
        case MethodNotAllowed():
            return [(b"allow", error.allowed.encode())]
        case Unauthorized():
            return [(b"www-authenticate", b"Bearer")]
        case RequestError(status=413):
            return [(b"connection", b"close")]  # what is left of the body will not be read
    return []
