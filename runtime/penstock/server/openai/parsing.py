"""From the bytes of a body to a checked request object; every refusal names the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from penstock.errors import InvalidRequest
from penstock.sampling.limits import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS
from penstock.server.openai import protocol

T = TypeVar("T", bound=protocol.Body)

FIELDS = frozenset(
    name
    for model in vars(protocol).values()
    if isinstance(model, type) and issubclass(model, protocol.Body)
    for name in model.model_fields
)
# What is known but not served, in better words than a type error's.
NOT_SERVED = {
    "tools": "tools are not supported yet",
    "tool_choice": "tools are not supported yet; tool_choice may be none or auto",
    "response_format": 'not supported yet; only {"type": "text"} is',
    "suffix": "not supported by this model",
    "modalities": "only text is supported",
    "cache_salt": "the server sets it from the API key; clients may not",
    "kv_transfer_params": "only the pods of one service may use it among themselves",
    "image_url": "only text is supported",
}
# In the place of what a union of types has to say about each of its types.
EXPECTED = {
    "prompt": "must be a text, a list of texts, a list of token ids, or a list of such lists",
    "content": "must be a text or a list of text parts",
    "stop": f"must be a text of 1 to {MAX_STOP_CHARACTERS:,} characters, or a list of at most {MAX_STOP_STRINGS} of them",
    "logit_bias": "must map token ids to numbers from -100 to 100",
    "type": "only parts of type text are supported",
}
WRONG_TYPE = frozenset(("string_type", "int_type", "list_type", "string_pattern_mismatch", "string_too_short"))
MAX_SHOWN = 200  # characters of a message


def parse(model: type[T], body: bytes) -> T:
    """`body` as a `model`; raises `InvalidRequest`."""
    try:
        return model.model_validate_json(body)
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise refusal(errors) from None


def refusal(errors: Sequence[Any]) -> InvalidRequest:
    """One sentence for a client out of pydantic's list: of the first field, the error that says most.

    A field that allows several types reports one error for each. A wrong value says more than a wrong type, and what
    lies deepest is the type that was meant.
    """
    first = errors[0]["loc"][:1]
    chosen = max(
        (e for e in errors if e["loc"][:1] == first), key=lambda e: (e["type"] not in WRONG_TYPE, len(e["loc"]))
    )
    kind, message = chosen["type"], str(chosen["msg"])
    if kind == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {message.removeprefix('Invalid JSON: ')}"[:MAX_SHOWN])
    if not chosen["loc"]:
        return InvalidRequest("the body must be a JSON object")
    path = field_path(chosen["loc"], is_unknown=kind == "extra_forbidden")
    top = str(chosen["loc"][0])
    if top in NOT_SERVED:
        message = NOT_SERVED[top]
    elif kind == "extra_forbidden":
        message = "this field is not known"
    elif kind == "missing":
        message = "this field is required"
    elif (name := path.rpartition(".")[2].partition("[")[0]) in EXPECTED and kind in WRONG_TYPE | {"literal_error"}:
        message = EXPECTED[name]
    return InvalidRequest(f"{path}: {message[:1].lower()}{message[1:]}"[:MAX_SHOWN], path)


def field_path(location: Sequence[int | str], *, is_unknown: bool) -> str:
    """`messages[0].content` for pydantic's location, without the names of the types that a field may have."""
    path = ""
    for depth, part in enumerate(location):
        is_last = depth == len(location) - 1
        if isinstance(part, int):
            path += f"[{part}]"
        elif depth == 0 or part in FIELDS or (is_unknown and is_last):
            path += f".{part}" if path else part
    return path[:MAX_SHOWN].encode(errors="replace").decode()
