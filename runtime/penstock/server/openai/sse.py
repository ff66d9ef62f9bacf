"""Server-sent events, put together from JSON that is encoded once per stream and the little that changes."""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
encode_json = msgspec.json.Encoder().encode


class EventFrame:
    """Everything of a stream's events that stays the same: `data: {id, object, created, model, …, "choices":[`."""

    __slots__ = ("_close", "_open")

    def __init__(self, head: dict[str, Any], *, has_usage: bool) -> None:
        """`has_usage`: the stream will end with its usage, so every other event says `"usage":null`, as OpenAI's do."""
        self._open = b'data: %b,"choices":[' % encode_json(head)[:-1]
        self._close = b'}],"usage":null}\n\n' if has_usage else b"}]}\n\n"

    def event(self, index: int, key: bytes, value: bytes) -> bytes:
        """One event of one choice, the form that nearly all have. `key` is `"text":` or the like."""
        return b'%b{"index":%d,%b%b,"logprobs":null,"finish_reason":null%b' % (
            self._open, index, key, value, self._close
        )  # fmt: skip

    def full_event(self, choice: dict[str, Any], usage: dict[str, Any] | None) -> bytes:
        """An event with anything more in it."""
        if usage is None:
            return self._open + encode_json(choice)[:-1] + self._close
        return b'%b%b],"usage":%b}\n\n' % (self._open, encode_json(choice), encode_json(usage))

    def usage_event(self, usage: dict[str, Any]) -> bytes:
        """The last event of a stream that was asked for its usage: it has no choices."""
        return b'%b],"usage":%b}\n\n' % (self._open, encode_json(usage))
