"""What clients may send, field by field: strict types, and a bound on every number, string, list and mapping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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

MAX_TEXT = 1 << 24  # characters of a text, entries of a list of token ids; the context ends far below
MAX_PROMPTS = 2_048
MAX_MESSAGES = 4_096
MAX_PARTS = 4_096  # text parts of one message
MAX_TOKEN_ID = (1 << 31) - 1


def _int(name: str, low: int | None = None) -> object:
    bounds = INT_BOUNDS[name]
    return Field(ge=bounds[0] if low is None else low, le=bounds[1])


def _float(name: str) -> object:
    return Field(ge=FLOAT_BOUNDS[name][0], le=FLOAT_BOUNDS[name][1], allow_inf_nan=False)


Name = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(max_length=MAX_TEXT)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
BiasKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$", max_length=10)]
Bias = Annotated[float, Field(ge=LOGIT_BIAS_BOUNDS[0], le=LOGIT_BIAS_BOUNDS[1], allow_inf_nan=False)]
Prompt = (
    Text
    | Annotated[list[Text], Field(max_length=MAX_PROMPTS)]
    | TokenIds
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS)]
)
TemplateName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
TemplateValue = (
    bool
    | Annotated[int, Field(ge=-(1 << 53), le=1 << 53)]
    | Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
    | Annotated[str, Field(max_length=4_096)]
    | None
)
TemplateVariables = Annotated[dict[TemplateName, TemplateValue], Field(max_length=32)]


class Body(BaseModel):
    """Base of all bodies: no coercion, no unknown fields, the default shown nowhere but here."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(Body):
    """What else a stream carries."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None  # OpenAI's padding against traffic analysis: accepted, never added


class ResponseFormat(Body):
    """Plain text is the only form that is served as yet."""

    type: Literal["text"]


class GenerationRequest(Body):
    """What completions and chat have in common. None stands for the default, as in OpenAI's API."""

    model: Name | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, _int("n")] | None = None
    max_tokens: Annotated[int, _int("max_tokens", low=0)] | None = None
    min_tokens: Annotated[int, _int("min_tokens")] | None = None
    temperature: Annotated[float, _float("temperature")] | None = None
    top_p: Annotated[float, _float("top_p")] | None = None
    top_k: Annotated[int, _int("top_k")] | None = None
    min_p: Annotated[float, _float("min_p")] | None = None
    presence_penalty: Annotated[float, _float("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _float("frequency_penalty")] | None = None
    repetition_penalty: Annotated[float, _float("repetition_penalty")] | None = None
    logit_bias: Annotated[dict[BiasKey, Bias], Field(max_length=MAX_LOGIT_BIAS)] | None = None
    seed: Annotated[int, _int("seed")] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, _int("prompt_logprobs")] | None = None
    priority: Annotated[int, Field(ge=PRIORITY_BOUNDS[0], le=PRIORITY_BOUNDS[1])] | None = None
    response_format: ResponseFormat | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

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


class CompletionRequest(GenerationRequest):
    """POST /v1/completions"""

    prompt: Prompt
    echo: bool | None = None
    logprobs: Annotated[int, _int("logprobs")] | None = None
    best_of: Annotated[int, _int("n")] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class TextPart(Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class FunctionCall(Body):
    """Which function an assistant called earlier, with its arguments as JSON text."""

    name: Name
    arguments: Text


class ToolCall(Body):
    """A call in the history of a conversation."""

    id: Name
    type: Literal["function"]
    function: FunctionCall


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_PARTS)] | None = None
    name: Name | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: Name | None = None

    def to_template(self) -> dict[str, object]:
        """As chat templates know it; the developer role is OpenAI's newer name for system."""
        fields = self.model_dump(exclude_none=True, exclude={"refusal"})
        return fields | ({"role": "system"} if self.role == "developer" else {})


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions"""

    messages: Messages
    max_completion_tokens: Annotated[int, _int("max_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _int("logprobs")] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    tools: Annotated[list[None], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    prompt_cache_key: Name | None = None
    safety_identifier: Name | None = None


class TokenizeRequest(Body):
    """POST /tokenize: a prompt, or messages that the chat template turns into one."""

    model: Name | None = None
    prompt: Text | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Body):
    """POST /detokenize"""

    model: Name | None = None
    tokens: TokenIds
