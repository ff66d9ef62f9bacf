"""The look at a body."""

from __future__ import annotations

import json

import pytest

from penstock.router.glance import DEFAULT_MAX_TOKENS, Glance


def test_sees_prompt_stream_and_work():
    seen = Glance.of(
        json.dumps({"prompt": "x" * 398, "stream": True, "max_tokens": 100, "n": 2, "other": [1]}).encode()
    )
    assert (seen.is_stream, seen.work) == (True, 300)
    assert seen.text == b'"' + b"x" * 398 + b'"'


def test_messages_that_begin_alike_look_alike():
    first = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "a"}]
    one = Glance.of(json.dumps({"messages": first}).encode())
    two = Glance.of(json.dumps({"messages": [*first, {"role": "assistant", "content": "b"}]}).encode())
    assert two.text.startswith(one.text[:-1])


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b"[" * 10_000, b'{"prompt": 1e999, "n": -1, "max_tokens": "x"}']
)
def test_never_fails(body):
    seen = Glance.of(body)
    assert not seen.is_stream
    assert seen.work >= DEFAULT_MAX_TOKENS
