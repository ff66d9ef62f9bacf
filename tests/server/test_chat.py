from __future__ import annotations

import json

import pytest

from support.embedded_text import embedded_tokenizer
from support.scripted_llm import LOGPROB

CHAT = "/v1/chat/completions"


async def chunks_of(site, text: str, **body) -> list[dict]:
    body |= {"messages": [{"role": "user", "content": text}], "stream": True}
    reply = await site.http.post(CHAT, json=body)
    assert reply.text.endswith("data: [DONE]\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: {")]


def prompt_of(site) -> str:
    """The newest prompt as the engine got it."""
    ids = site.engine.seen[-1].prompt_array().tolist()
    return embedded_tokenizer().decode(ids, skip_special_tokens=False)


async def test_an_answer_has_the_shape_of_openai(site):
    answer = await site.chat("Hello", max_tokens=4)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "system\nYou"  # the engine repeats the prompt
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


async def test_the_prompt_is_what_the_chat_template_writes(site):
    await site.chat("Hello", max_tokens=1)
    assert prompt_of(site).endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


async def test_developer_messages_and_text_parts_are_understood(site):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    reply = await site.post(CHAT, messages=messages, max_tokens=1)
    assert reply.status_code == 200, reply.text
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(site) == expected


async def test_the_final_message_can_be_continued(site):
    messages = [{"role": "user", "content": "Say yes"}, {"role": "assistant", "content": "Y"}]
    reply = await site.post(CHAT, messages=messages, max_tokens=1, continue_final_message=True)
    assert reply.status_code == 200, reply.text
    assert prompt_of(site).endswith("<|im_start|>assistant\nY")


async def test_an_answer_goes_on_up_to_the_context_unless_limited(site):
    await site.chat("Hello", ignore_eos=True)
    request = site.engine.seen[0]
    assert request.max_total == 512
    await site.chat("Hello", max_completion_tokens=2)
    assert site.engine.seen[1].max_total == request.num_prompt + 2


async def test_a_stream_begins_with_the_role_and_joins_to_the_whole(site):
    whole = await site.chat("Hello", max_tokens=6)
    chunks = await chunks_of(site, "Hello", max_tokens=6)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"


async def test_each_choice_of_a_stream_has_its_role(site):
    chunks = await chunks_of(site, "Hello", max_tokens=2, n=3)
    roles = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
    assert sorted(roles) == [0, 1, 2]


async def test_logprobs_come_with_bytes_and_alternatives(site):
    answer = await site.chat("Hello", max_tokens=3, logprobs=True, top_logprobs=4)
    content = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["<|im_start|>", "system", "\n"]
    for entry in content:
        assert entry["logprob"] == LOGPROB
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 4
        assert entry["top_logprobs"][0]["token"] == entry["token"]
    chunks = await chunks_of(site, "Hello", max_tokens=3, logprobs=True, top_logprobs=4)
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [entry for part in streamed for entry in part["content"]] == content


async def test_logprobs_without_alternatives(site):
    answer = await site.chat("Hello", max_tokens=1, logprobs=True)
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize("name", ["messages", "tools", "template", "chat_template", "raise_exception"])
async def test_template_variables_cannot_replace_what_the_server_sets(site, name):
    body = {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {name: "x"}}
    reply = await site.post(CHAT, **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "chat_template_kwargs"


async def test_fields_that_change_nothing_here_are_accepted(site):
    harmless = {"user": "u", "store": False, "metadata": {"a": "b"}, "tools": [], "tool_choice": "none"}
    harmless |= {"service_tier": "auto", "response_format": {"type": "text"}, "parallel_tool_calls": True}
    await site.chat("Hello", max_tokens=1, **harmless)
