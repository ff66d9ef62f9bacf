"""POST /v1/chat/completions"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core.request import Request
from penstock.engine.output import OutputDelta
from penstock.errors import InvalidRequest
from penstock.server.openai.generation import ChoiceState, Generation, origin_of
from penstock.server.openai.logprobs import LogprobWriter
from penstock.server.openai.parsing import parse
from penstock.server.openai.protocol import ChatRequest, Message, TokenizeRequest
from penstock.server.openai.reply import reply
from penstock.server.openai.sampling import chat_params
from penstock.server.openai.sse import encode_json
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving
from penstock.tokenizer import Tokenizer

# Names that templates get from the server; a client may not set them.
RESERVED_VARIABLES = frozenset(
    (
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "documents",
        "messages",
        "raise_exception",
        "strftime_now",
        "template",
        "tools",
    )
)


async def create_chat_completion(serving: Serving, exchange: PodExchange) -> None:
    """Say what the assistant says next."""
    request = parse(ChatRequest, await exchange.read_body(serving.config.max_body_bytes))
    exchange.watch()
    serving.check_model(request.model)
    params = chat_params(request, serving.llm.input)
    origin = origin_of(serving, exchange, "chatcmpl")

    def build() -> list[list[Request]]:
        prompt = render(serving.llm.tokenizer, request, request.messages)
        return [
            serving.llm.input.build(
                prompt,
                params,
                request_id=origin.name,
                priority=request.priority or 0,
                cache_salt=exchange.salt,
                add_special_tokens=request.add_special_tokens is True,
                field="messages",
            )
        ]

    requests = await serving.run(build, size=text_size(request.messages))
    generation = Generation(serving, exchange, "chat", requests, origin)
    head = generation.head("chat.completion")
    await reply(exchange, generation, ChatWriter(serving, request), request, head)


def render(tokenizer: Tokenizer, request: ChatRequest | TokenizeRequest, messages: Sequence[Message]) -> str:
    """The conversation as a prompt; raises `InvalidRequest`."""
    variables: Mapping[str, Any] = request.chat_template_kwargs or {}
    if taken := RESERVED_VARIABLES & variables.keys():
        raise InvalidRequest(f"chat_template_kwargs: {min(taken)} cannot be set there", "chat_template_kwargs")
    continues = request.continue_final_message is True
    adds_prompt = request.add_generation_prompt
    return tokenizer.render_chat(
        [message.to_template() for message in messages],
        add_generation_prompt=not continues if adds_prompt is None else adds_prompt,
        continue_final_message=continues,
        **variables,
    )


def text_size(messages: Sequence[Message]) -> int:
    """Characters of a conversation, about."""
    size = 0
    for message in messages:
        content = message.content or ""
        size += 20 + (len(content) if isinstance(content, str) else sum(len(part.text) for part in content))
    return size


class ChatWriter:
    """Turns deltas of a choice into a message, whole or in parts."""

    stream_object = "chat.completion.chunk"
    text_key = b'"delta":{"content":'
    hides_output = False

    def __init__(self, serving: Serving, request: ChatRequest) -> None:
        self._request = request
        self._logprobs = LogprobWriter(serving.llm.tokenizer)
        self.is_plain = not request.logprobs

    def text_value(self, text: str) -> bytes:
        """What follows `text_key` in an event with nothing but text."""
        return encode_json(text) + b"}"

    def whole(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """A finished choice."""
        message = {"role": "assistant", "content": "".join(delta.text for delta in deltas), "refusal": None}
        return self._choice(state, deltas, "message", message)

    def first_events(self, state: ChoiceState) -> list[dict[str, Any]]:
        """The first event of a choice says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": state.index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def part(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """The news of a choice."""
        state.has_begun = True
        text = "".join(delta.text for delta in deltas)
        return self._choice(state, deltas, "delta", {"content": text} if text else {})

    def _choice(
        self, state: ChoiceState, deltas: Sequence[OutputDelta], key: str, value: Mapping[str, Any]
    ) -> dict[str, Any]:
        request, logprobs = self._request, None
        if request.logprobs:
            entries = [entry for delta in deltas for entry in delta.logprobs]
            logprobs = {"content": self._logprobs.chat(entries, request.top_logprobs or 0), "refusal": None}
        choice = {
            "index": state.index,
            key: value,
            "logprobs": logprobs,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
        }
        complete = next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None)
        if request.prompt_logprobs is not None and complete is not None:
            choice["prompt_logprobs"] = self._logprobs.prompt(complete, request.prompt_logprobs)
        return choice
