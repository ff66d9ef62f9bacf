"""From OpenAI's fields to `SamplingParams`; what is not given keeps the model's own default."""

from __future__ import annotations

from typing import Any

from penstock.engine.input import InputProcessor
from penstock.errors import InvalidRequest
from penstock.sampling.params import SamplingParams
from penstock.server.openai.protocol import MAX_PROMPTS, ChatRequest, CompletionRequest, GenerationRequest

SAME_NAME = (
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "prompt_logprobs",
)


def completion_params(request: CompletionRequest, processor: InputProcessor) -> SamplingParams:
    """What a completion asks of the sampler; raises `InvalidRequest` for contradictions."""
    if request.best_of is not None and request.best_of != request.num_choices:
        raise InvalidRequest("best_of: only the value of n is supported", "best_of")
    given = common_fields(request)
    if request.logprobs is not None:
        given["logprobs"] = request.logprobs
    if request.echo and request.logprobs is not None:
        given["prompt_logprobs"] = max(request.logprobs, request.prompt_logprobs or 0)
    if request.max_tokens == 0:  # only the prompt's own numbers are wanted; the one token is not shown
        if not request.echo and request.prompt_logprobs is None:
            raise InvalidRequest("max_tokens: 0 needs echo or prompt_logprobs", "max_tokens")
        given["max_tokens"] = 1
    return processor.default_params(**given)


def chat_params(request: ChatRequest, processor: InputProcessor) -> SamplingParams:
    """What a chat completion asks of the sampler; raises `InvalidRequest` for contradictions."""
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    given: dict[str, Any] = {"max_tokens": None}  # up to the context
    given |= common_fields(request)
    if request.max_completion_tokens is not None:
        if request.max_tokens not in (None, request.max_completion_tokens):
            raise InvalidRequest("max_tokens and max_completion_tokens contradict each other", "max_completion_tokens")
        given["max_tokens"] = request.max_completion_tokens
    if request.logprobs:
        given["logprobs"] = request.top_logprobs or 0
    return processor.default_params(**given)


def common_fields(request: GenerationRequest) -> dict[str, Any]:
    """The sampling fields that were given; raises `InvalidRequest` for stream options without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream to be true", "stream_options")
    given = {name: value for name in SAME_NAME if (value := getattr(request, name)) is not None}
    if request.stop is not None:
        given["stop"] = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
    if request.stop_token_ids is not None:
        given["stop_token_ids"] = tuple(request.stop_token_ids)
    return given


def check_num_choices(num_prompts: int, num_choices: int) -> None:
    """Raise `InvalidRequest` for more choices in one request than the queue should take at once."""
    if num_prompts * num_choices > MAX_PROMPTS:
        raise InvalidRequest(
            f"n: {num_prompts:,} prompts times {num_choices:,} choices are more than {MAX_PROMPTS:,}", "n"
        )
