"""From the bytes of a body to a checked request object; every refusal names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec

from penstock.errors import InvalidRequest
from penstock.sampling.limits import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from penstock.server.openai.protocol import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)

T = TypeVar("T", bound=Body)

DECODERS: Mapping[type[Body], msgspec.json.Decoder[Any]] = MappingProxyType(
    {
        model: msgspec.json.Decoder(model)
        for model in (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest)
    }
)
# What is known but not served, in better words than a type error's.
NOT_SERVED = MappingProxyType(
    {
        "tools": "tools are not supported yet",
        "tool_choice": "tools are not supported yet; it may be none or auto",
        "response_format": 'not supported yet; only {"type": "text"} is',
        "suffix": "not supported by this model",
        "modalities": "only text is supported",
        "cache_salt": "the server sets it from the API key; clients may not",
        "kv_transfer_params": "only the pods of one service may use it among themselves",
    }
)
# In the place of what the decoder says about fields of several types.
EXPECTED = MappingProxyType(
    {
        "prompt": "must be a text, a list of texts, a list of token ids, or a list of such lists",
        "content": "must be a text or a list of text parts",
        "stop": f"must be a text of 1 to {MAX_STOP_CHARACTERS:,} characters, or at most {MAX_STOP_STRINGS} of them",
        "logit_bias": "must map token ids to numbers from -100 to 100",
        "type": "only parts of type text are supported",
    }
)
OTHER_PARTS = ("image_url", "input_audio", "file")  # content that is not text
PLACE = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
NAMED_FIELD = re.compile(r"^Object (contains unknown|missing required) field `(.*)`$", re.DOTALL)
MAX_SHOWN = 200  # characters of a message


def parse(model: type[T], body: bytes) -> T:
    """`body` as a `model`; raises `InvalidRequest`."""
    try:
        return cast(T, DECODERS[model].decode(body))
    except msgspec.ValidationError as error:
        raise refusal(str(error)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}"[:MAX_SHOWN]) from None


def refusal(message: str) -> InvalidRequest:
    """What the decoder says, `Expected `int`, got `str` - at `$.n``, in a client's words and with the field's name."""
    place = PLACE.search(message)
    path = "" if place is None else place[1].removeprefix(".").replace("[...]", "")
    message = PLACE.sub("", message)
    if named := NAMED_FIELD.match(message):
        path = f"{path}.{named[2]}" if path else named[2]
    path = path[:MAX_SHOWN].encode(errors="replace").decode()
    if not path:
        return InvalidRequest("the body must be a JSON object")
    top, last = re.split(r"[.\[]", path)[0], path.rpartition(".")[2].partition("[")[0]
    if top in NOT_SERVED:
        message = NOT_SERVED[top]
    elif named and named[1] == "missing required":
        message = "this field is required"
    elif named:
        message = EXPECTED["type"] if last in OTHER_PARTS else "this field is not known"
    elif last in EXPECTED and "<=" not in message:
        message = EXPECTED[last]
    message = message.replace(" | null", "").replace("`", "")
    return InvalidRequest(f"{path}: {message[:1].lower()}{message[1:]}"[:MAX_SHOWN], path)
