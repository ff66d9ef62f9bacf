"""All choices of one HTTP request, from the engine's first token to its last: followed, counted, summed up."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from penstock.core.request import Request
from penstock.engine.output import OutputDelta
from penstock.errors import EngineFailure
from penstock.server.exchange import ClientGone, Exchange
from penstock.server.serving import Serving

TakeDeltas = Callable[[Sequence[OutputDelta]], Awaitable[None]]


class ChoiceState:
    """What is known of one choice so far."""

    __slots__ = ("has_begun", "index", "last_at", "num_cached", "num_outputs", "offset", "request")

    def __init__(self, index: int, request: Request) -> None:
        self.index = index  # prompt * n + choice
        self.request = request
        self.has_begun = False  # an event or message of it was written
        self.last_at: float | None = None  # when its last token came
        self.num_cached = 0
        self.num_outputs = 0
        self.offset = 0  # characters of its text that its logprobs have covered


class Generation:
    """Follows the deltas of several prompts with several choices each."""

    def __init__(
        self, serving: Serving, exchange: Exchange, endpoint: str, requests: Sequence[Sequence[Request]]
    ) -> None:
        self._serving, self._exchange, self._endpoint = serving, exchange, endpoint
        self._requests = [request for choices in requests for request in choices]
        self.choices = {request.handle: ChoiceState(index, request) for index, request in enumerate(self._requests)}
        self._num_open = len(self._requests)

    async def follow(self, take: TakeDeltas) -> None:
        """Submit, and hand every list of deltas to `take` until all choices have ended.

        However this ends, no choice is left running. Raises `EngineFailure` when a choice fails, `ClientGone` when the
        client left, `Overloaded` when the engine takes no more.
        """
        serving, exchange = self._serving, self._exchange
        stream = serving.llm.submit(self._requests)
        serving.metrics.count_begin(self._num_open)
        try:
            await exchange.on_disconnect(stream.aclose)
            async for deltas in stream:
                self._count(deltas)
                await take(deltas)
        finally:
            await stream.aclose()
            if self._num_open:
                serving.metrics.count_aborts(self._endpoint, self._num_open)
            serving.metrics.take_totals(serving.llm)
        if exchange.is_disconnected:
            raise ClientGone

    def _count(self, deltas: Sequence[OutputDelta]) -> None:
        metrics, now, num_tokens = self._serving.metrics, self._serving.clock(), 0
        for delta in deltas:
            state = self.choices[delta.handle]
            if delta.token_ids:
                num_tokens += len(delta.token_ids)
                state.num_outputs = delta.num_outputs
                if state.last_at is None:
                    state.num_cached = delta.num_cached
                    metrics.count_first_token(
                        now - self._exchange.started_at, num_prompt=delta.num_prompt, num_cached=delta.num_cached
                    )
                else:
                    metrics.count_next_token(now - state.last_at)
                state.last_at = now
            if delta.finish_reason is not None:
                self._num_open -= 1
                seconds = now - self._exchange.started_at
                metrics.count_end(self._endpoint, delta.finish_reason, seconds=seconds, num_outputs=delta.num_outputs)
                if delta.finish_reason in ("error", "abort"):
                    raise EngineFailure(delta.error or "the engine ended this request")
        metrics.count_tokens(num_tokens)

    def usage(self) -> dict[str, Any]:
        """Tokens so far. A prompt with several choices counts once."""
        states = self.choices.values()
        firsts = [state for state in states if state.request.choice == 0]
        num_prompt = sum(state.request.num_prompt for state in firsts)
        num_outputs = sum(state.num_outputs for state in states)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_outputs,
            "total_tokens": num_prompt + num_outputs,
            "prompt_tokens_details": {"cached_tokens": sum(state.num_cached for state in firsts)},
        }


def new_id(prefix: str) -> str:
    """A name for an answer that nobody else has, such as `cmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"
