"""Turns a conversation into a prompt with the model's own Jinja template, in a sandbox with bounds on time and size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.errors import InvalidRequest

MAX_TEMPLATE_CHARACTERS = 1 << 18
MAX_MESSAGES = 4_096
MAX_OUTPUT_CHARACTERS = 1 << 25
MAX_SECONDS = 2.0
# What an expression of a template can raise when the conversation is not of the shape that it expects.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class TemplateRefusal(jinja2.TemplateError):
    """The template itself says that this conversation is wrong (`raise_exception`), or a bound was reached."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox in which every turn of a loop and every macro call passes a check of the time."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        blocks: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro)]
        for block in blocks:
            check = nodes.Call(nodes.Name("_check_time", "load"), [], [], None, None)
            block.body.insert(0, nodes.ExprStmt(check).set_lineno(block.lineno))
        return tree


class ChatTemplate:
    """One compiled template. Rendering it is pure but for `clock`, which only `strftime_now` shows."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], clock: Callable[[], datetime] = datetime.now
    ) -> None:
        """Compile; raises `InvalidRequest` (field `chat_template`) when the source is too long or not Jinja."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise InvalidRequest(f"the template has more than {MAX_TEMPLATE_CHARACTERS:,} characters", "chat_template")
        environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
        environment.filters["tojson"] = to_json
        environment.globals.update(special_tokens)
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: clock().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidRequest(f"the chat template cannot be read: {error}", "chat_template") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        """The prompt; raises `InvalidRequest` (field `messages`) when the template refuses or a bound is reached."""
        if not 1 <= len(messages) <= MAX_MESSAGES:
            raise InvalidRequest(f"messages must have 1 to {MAX_MESSAGES:,} entries", "messages")
        deadline = time.monotonic() + MAX_SECONDS
        known = {
            "messages": [flat_message(message) for message in messages],
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "_check_time": lambda: check_time(deadline),
        }
        pieces, length = [], 0
        try:
            for piece in self._template.generate({**variables, **known}):
                length += len(piece)
                if length > MAX_OUTPUT_CHARACTERS:
                    raise TemplateRefusal(f"more than {MAX_OUTPUT_CHARACTERS:,} characters")
                check_time(deadline)
                pieces.append(piece)
        except TEMPLATE_ERRORS as error:
            raise InvalidRequest(f"the chat template refuses these messages: {error}", "messages") from error
        return "".join(pieces)


def check_time(deadline: float) -> str:
    """Nothing, until `deadline` (monotonic seconds) is past: then it raises."""
    if time.monotonic() > deadline:
        raise TemplateRefusal(f"more than {MAX_SECONDS:g} seconds")
    return ""


def refuse(message: str) -> None:
    """What templates call to say that a conversation is wrong."""
    raise TemplateRefusal(message)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON; Jinja's own filter escapes for HTML, which would change what the model sees."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def flat_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its text parts joined to one string, which is what templates of text models expect."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return {**message, "content": content or ""}
    if not isinstance(content, Sequence):
        raise InvalidRequest("messages: content must be a string or a list of text parts", "messages")
    for part in content:
        is_text = isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            raise InvalidRequest("messages: content parts must be of type text for this model", "messages")
    return {**message, "content": "".join(part["text"] for part in content)}
