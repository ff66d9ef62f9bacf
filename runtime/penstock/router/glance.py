"""The little that the router wants to know of a request's body; what is wrong in it, the pod will say."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

BYTES_PER_TOKEN = 4  # roughly, in English
DEFAULT_MAX_TOKENS = 256  # as an estimate of work, where the client sets no limit
LARGEST = 1 << 20  # tokens that one request is taken for


class _Fields(msgspec.Struct):
    prompt: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    max_tokens: msgspec.Raw = msgspec.Raw()
    max_completion_tokens: msgspec.Raw = msgspec.Raw()
    n: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What a body seems to ask for."""

    text: bytes  # JSON of the prompt or the messages; equal prompts begin alike
    is_stream: bool
    work: float  # tokens, estimated

    @classmethod
    def of(cls, body: bytes) -> Glance:
        """Never fails: of a body that is no JSON there is nothing to see."""
        try:
            fields = _DECODER.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            fields = _Fields()
        text = bytes(fields.messages) or bytes(fields.prompt)
        max_tokens = _number(fields.max_completion_tokens) or _number(fields.max_tokens) or DEFAULT_MAX_TOKENS
        work = len(text) / BYTES_PER_TOKEN + max_tokens * (_number(fields.n) or 1)
        return cls(text=text, is_stream=bytes(fields.stream) == b"true", work=min(work, LARGEST))


def _number(raw: msgspec.Raw) -> int:
    digits = bytes(raw)
    return int(digits) if digits.isdigit() and len(digits) < 8 else 0


_DECODER = msgspec.json.Decoder(_Fields)
