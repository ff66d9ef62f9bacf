from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from penstock.errors import InvalidRequest
from penstock.server.openai.completions import prompts_of
from penstock.server.openai.parsing import parse
from penstock.server.openai.protocol import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from support.schemas import unbounded

REQUESTS = [CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest]


@pytest.mark.parametrize("model", REQUESTS)
def test_every_number_string_list_and_mapping_has_a_bound(model):
    schema = msgspec.json.schema(model)
    assert len(schema["$defs"][model.__name__]["properties"]) >= 2
    assert unbounded(schema, schema["$defs"], model.__name__) == []


@pytest.mark.parametrize("field", [int, float, str, list[int], dict[str, bool], int | None, Any])
def test_the_walk_over_the_schema_finds_what_has_no_bound(field):
    schema = msgspec.json.schema(msgspec.defstruct("Loose", [("field", field)], bases=(Body,)))
    assert unbounded(schema, schema["$defs"], "Loose") != []


@pytest.mark.parametrize("model", REQUESTS)
def test_no_model_accepts_unknown_fields(model):
    with pytest.raises(InvalidRequest, match="this field is not known") as caught:
        parse(model, b'{"prompt": "a", "messages": [{"role": "user", "content": "a"}], "tokens": [1], "wizard": 1}')
    assert caught.value.field in ("wizard", "messages", "tokens", "prompt")


@pytest.mark.parametrize(
    ("body", "field", "word"),
    [
        (b'{"prompt": [1.5]}', "prompt", "token ids"),
        (b'{"prompt": [true]}', "prompt", "token ids"),
        (b'{"prompt": [1180591620717411303424]}', "prompt", "<= 2147483647"),
        (b'{"prompt": "a", "n": true}', "n", "int, got bool"),
        (b'{"prompt": "a", "n": 1.0}', "n", "int, got float"),
        (b'{"prompt": "a", "n": "1"}', "n", "int, got str"),
        (b'{"prompt": "a", "seed": 1180591620717411303424}', "seed", "out of range|<="),
        (b'{"prompt": "a", "temperature": true}', "temperature", "float, got bool"),
        (b'{"prompt": "a", "temperature": 1e999}', "temperature", "out of range"),
        (b'{"prompt": "a", "echo": 1}', "echo", "bool"),
        (b'{"prompt": "a", "stop": [1]}', "stop", "text"),
        (b'{"prompt": "a", "suffix": "b"}', "suffix", "not supported"),
        (b'{"prompt": "a", "cache_salt": "b"}', "cache_salt", "API key"),
        (b'{"prompt": "a", "kv_transfer_params": {}}', "kv_transfer_params", "pods"),
        (b'{"prompt": "a", "response_format": {"type": "json_object"}}', "response_format", "not supported yet"),
        (b"{}", "prompt", "required"),
    ],
)
def test_a_wrong_field_of_a_completion_is_named(body, field, word):
    with pytest.raises(InvalidRequest, match=word) as caught:
        parse(CompletionRequest, body)
    assert caught.value.field.startswith(field)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        (b"[]", "messages"),
        (b'"hi"', "messages"),
        (b'[{"role": "wizard", "content": "a"}]', "role"),
        (b'[{"role": "user", "content": 5}]', "content"),
        (b'[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]', "type text"),
        (b'[{"role": "user", "content": "a", "magic": 1}]', "magic"),
    ],
)
def test_a_wrong_message_is_named(messages, word):
    with pytest.raises(InvalidRequest, match=word) as caught:
        parse(ChatRequest, b'{"messages": %b}' % messages)
    assert caught.value.field.startswith("messages")


def test_tools_are_refused_by_name():
    with pytest.raises(InvalidRequest, match="tools are not supported yet"):
        parse(ChatRequest, b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}')


def test_a_message_to_the_client_stays_short():
    with pytest.raises(InvalidRequest) as caught:
        parse(CompletionRequest, b'{"prompt": "a", "%b": 1}' % (b"x" * 100_000))
    assert len(str(caught.value)) <= 200


MANY = 1 << 19
HOSTILE = {
    "texts": b'{"prompt": [' + b'"",' * MANY + b'""]}',
    "wrong values": b'{"prompt": [' + b"1.5," * MANY + b"1]}",
    "empty lists": b'{"prompt": [' + b"[]," * MANY + b"[]]}",
    "unknown fields": b"{" + b",".join(b'"%d":1' % n for n in range(MANY)) + b"}",
    "nested objects": b'{"x": ' * MANY + b"1" + b"}" * MANY,
    "biases": b'{"prompt": "a", "logit_bias": {' + b",".join(b'"%d":1' % n for n in range(MANY)) + b"}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_full_of_mistakes_is_refused_quickly(name):
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        prompts_of(parse(CompletionRequest, HOSTILE[name]))
    assert time.process_time() - began < 1.0
