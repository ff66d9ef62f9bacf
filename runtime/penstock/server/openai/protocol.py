"""What clients may send, field by field: strict types, and a bound on every number, string, list and mapping.

msgspec and not pydantic, because it stops at the first thing that is wrong. A body of 16 MB with millions of wrong
values takes pydantic minutes, in which no other request of the process is served; here it takes a fraction of a second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from penstock.engine.input import PRIORITY_BOUNDS
from penstock.sampling.limits import (
    FLOAT_BOUNDS,
    INT_BOUNDS,
    LOGIT_BIAS_BOUNDS,
    MAX_LOGIT_BIAS,
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
)

MAX_TEXT = 1 << 24  # characters; the context ends far below
MAX_TOKEN_IDS = 1 << 24  # the longest context that a model may have
MAX_PROMPTS = 2_048
MAX_MESSAGES = 4_096
MAX_PARTS = 4_096  # text parts of one message
MAX_TOKEN_ID = (1 << 31) - 1


def _bounds(name: str) -> Meta:
    """The bounds that the engine has for a sampling field. Beyond them it may refuse more."""
    low, high = INT_BOUNDS[name] if name in INT_BOUNDS else FLOAT_BOUNDS[name]
    return Meta(ge=low, le=high)


Name = Annotated[str, Meta(max_length=256)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Meta(max_length=MAX_TOKEN_IDS)]
StopString = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Bias = Annotated[float, Meta(ge=LOGIT_BIAS_BOUNDS[0], le=LOGIT_BIAS_BOUNDS[1])]
# A text, texts, token ids, or lists of token ids; `completions.prompts_of` refuses mixtures.
Prompt = Text | Annotated[list[Text | TokenId | TokenIds], Meta(max_length=MAX_TOKEN_IDS)]
TemplateName = Annotated[str, Meta(pattern="^[a-z][a-z0-9_]*$", max_length=64)]
TemplateValue = (
    bool
    | Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)]
    | Annotated[float, Meta(ge=-1e300, le=1e300)]
    | Annotated[str, Meta(max_length=4_096)]
    | None
)
TemplateVariables = Annotated[dict[TemplateName, TemplateValue], Meta(max_length=32)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all bodies. JSON has no NaN, and text no lone surrogates: the decoder refuses both."""


class StreamOptions(Body, frozen=True, kw_only=True):
    """What else a stream carries."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # OpenAI's padding against traffic analysis: accepted, never added


class ResponseFormat(Body, frozen=True, kw_only=True):
    """Plain text is the only form that is served as yet."""

    type: Literal["text"]


class GenerationRequest(Body, frozen=True, kw_only=True):
    """What completions and chat have in common. None stands for the default, as in OpenAI's API."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, _bounds("n")] | None = None
    max_tokens: Annotated[int, Meta(ge=0, le=INT_BOUNDS["max_tokens"][1])] | None = None  # 0: only score the prompt
    min_tokens: Annotated[int, _bounds("min_tokens")] | None = None
    temperature: Annotated[float, _bounds("temperature")] | None = None
    top_p: Annotated[float, _bounds("top_p")] | None = None
    top_k: Annotated[int, _bounds("top_k")] | None = None
    min_p: Annotated[float, _bounds("min_p")] | None = None
    presence_penalty: Annotated[float, _bounds("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _bounds("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, _bounds("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MAX_LOGIT_BIAS)] | None = None
    seed: Annotated[int, _bounds("seed")] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, _bounds("prompt_logprobs")] | None = None
    priority: Annotated[int, Meta(ge=PRIORITY_BOUNDS[0], le=PRIORITY_BOUNDS[1])] | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None

    @property
    def num_choices(self) -> int:
        """Choices per prompt."""
        return 1 if self.n is None else self.n

    @property
    def has_usage_chunk(self) -> bool:
        """True if a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def has_running_usage(self) -> bool:
        """True if every event of a stream carries the usage so far."""
        return self.has_usage_chunk and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/completions"""

    prompt: Prompt
    echo: bool | None = None
    logprobs: Annotated[int, _bounds("logprobs")] | None = None
    best_of: Annotated[int, _bounds("n")] | None = None
    suffix: Annotated[str, Meta(max_length=0)] | None = None


class TextPart(Body, frozen=True, kw_only=True):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class FunctionCall(Body, frozen=True, kw_only=True):
    """Which function an assistant called earlier, with its arguments as JSON text."""

    name: Name
    arguments: Text


class ToolCall(Body, frozen=True, kw_only=True):
    """A call in the history of a conversation."""

    id: Name
    type: Literal["function"]
    function: FunctionCall


class Message(Body, frozen=True, kw_only=True):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Meta(max_length=MAX_PARTS)] | None = None
    name: Name | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=128)] | None = None
    tool_call_id: Name | None = None

    def to_template(self) -> dict[str, Any]:
        """As chat templates know it; the developer role is OpenAI's newer name for system."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        known = {name: value for name, value in fields.items() if value is not None and name != "refusal"}
        return known | ({"role": "system"} if self.role == "developer" else {})


Messages = Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions"""

    messages: Messages
    max_completion_tokens: Annotated[int, _bounds("max_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _bounds("logprobs")] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    tools: Annotated[list[None], Meta(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Meta(max_length=1)] | None = None
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    prompt_cache_key: Name | None = None
    safety_identifier: Name | None = None


class TokenizeRequest(Body, frozen=True, kw_only=True):
    """POST /tokenize: a prompt, or messages that the chat template turns into one."""

    model: Name | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Body, frozen=True, kw_only=True):
    """POST /detokenize"""

    model: Name | None = None
    tokens: TokenIds
