"""POST /v1/completions"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from penstock.core.request import Request
from penstock.engine.output import OutputDelta
from penstock.errors import InvalidRequest
from penstock.server.openai.generation import ChoiceState, Generation, origin_of
from penstock.server.openai.logprobs import LogprobWriter, join_logprobs
from penstock.server.openai.parsing import EXPECTED, parse
from penstock.server.openai.protocol import MAX_PROMPTS, CompletionRequest
from penstock.server.openai.reply import reply
from penstock.server.openai.sampling import check_num_choices, completion_params
from penstock.server.openai.sse import encode_json
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving

PromptValue = str | list[int]


async def create_completion(serving: Serving, exchange: PodExchange) -> None:
    """Continue one prompt or several."""
    request = parse(CompletionRequest, await exchange.read_body(serving.config.max_body_bytes))
    exchange.watch()
    serving.check_model(request.model)
    params = completion_params(request, serving.llm.input)
    prompts = prompts_of(request)
    check_num_choices(len(prompts), params.n)
    origin = origin_of(serving, exchange, "cmpl")

    def build() -> list[list[Request]]:
        return [
            serving.llm.input.build(
                prompt,
                params,
                request_id=origin.name,
                priority=request.priority or 0,
                cache_salt=exchange.salt,
                add_special_tokens=request.add_special_tokens is not False,
            )
            for prompt in prompts
        ]

    requests = await serving.run(build, size=sum(map(len, prompts)))
    generation = Generation(serving, exchange, "completions", requests, origin)
    head = generation.head("text_completion")
    writer = CompletionWriter(serving, request, prompts, params.n)
    await reply(exchange, generation, writer, request, head)


def prompts_of(request: CompletionRequest) -> list[PromptValue]:
    """The prompts as a list; a list of numbers is one prompt of token ids, and so is an empty list.

    Raises `InvalidRequest` for too many prompts, and for texts among lists of ids.
    """
    prompt = request.prompt
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return [cast(PromptValue, prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidRequest(f"prompt: at most {MAX_PROMPTS:,} prompts fit into one request", "prompt")
    if len({type(each) for each in prompt}) > 1:
        raise InvalidRequest(f"prompt: {EXPECTED['prompt']}", "prompt")
    return cast(list[PromptValue], prompt)


class CompletionWriter:
    """Turns deltas of a choice into the JSON of that choice, whole or in parts."""

    stream_object = "text_completion"
    text_key = b'"text":'

    def __init__(
        self, serving: Serving, request: CompletionRequest, prompts: Sequence[PromptValue], num_choices: int
    ) -> None:
        self._request, self._prompts, self._num_choices = request, prompts, num_choices
        self._tokenizer = serving.llm.tokenizer
        self._logprobs = LogprobWriter(self._tokenizer)
        self.hides_output = request.max_tokens == 0
        self.is_plain = request.logprobs is None and not request.echo and not self.hides_output

    def text_value(self, text: str) -> bytes:
        """What follows `text_key` in an event with nothing but text."""
        return encode_json(text)

    def whole(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """A finished choice."""
        return self.part(state, deltas)

    def part(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """The news of a choice; its first part carries the echo of the prompt."""
        request, pieces, logprobs = self._request, [], []
        prompt_logprobs = next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None)
        width = request.logprobs
        if request.echo and not state.has_begun:
            pieces.append(self._prompt_text(state.index // self._num_choices))
            if width is not None and prompt_logprobs is not None:
                ids = state.request.prompt_array().tolist()
                block, state.offset = self._logprobs.completion(ids, prompt_logprobs, width, state.offset)
                logprobs.append(block)
        state.has_begun = True
        if not self.hides_output:
            pieces += [delta.text for delta in deltas]
            if width is not None:
                entries = [entry for delta in deltas for entry in delta.logprobs]
                ids = [entry.token_id for entry in entries]
                block, state.offset = self._logprobs.completion(ids, entries, width, state.offset)
                logprobs.append(block)
        choice = {
            "index": state.index,
            "text": "".join(pieces),
            "logprobs": join_logprobs(logprobs) if logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
            "stop_reason": deltas[-1].stop_reason,
        }
        if request.prompt_logprobs is not None and prompt_logprobs is not None:
            choice["prompt_logprobs"] = self._logprobs.prompt(prompt_logprobs, request.prompt_logprobs)
        return choice

    def first_events(self, state: ChoiceState) -> list[dict[str, Any]]:
        """Nothing goes before the text of a completion."""
        return []

    def _prompt_text(self, prompt: int) -> str:
        given = self._prompts[prompt]
        return given if isinstance(given, str) else self._tokenizer.decode(given, skip_special_tokens=False)
