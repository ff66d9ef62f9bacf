"""All choices of one HTTP request, from the engine's first token to its last: followed, counted, summed up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.core.request import Request
from penstock.engine.output import OutputDelta
from penstock.errors import EngineFailure
from penstock.server.exchange import ClientGone
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving
from penstock.server.story import Origin, TakeDeltas


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
        self,
        serving: Serving,
        exchange: PodExchange,
        endpoint: str,
        requests: Sequence[Sequence[Request]],
        origin: Origin,
    ) -> None:
        """Raises `InvalidRequest` where the exchange tells of another request's beginning."""
        self._serving, self._exchange, self._endpoint, self._origin = serving, exchange, endpoint, origin
        self._requests = [request for choices in requests for request in choices]
        if exchange.story is not None:
            self._requests = exchange.story.settle(self._requests, serving.llm.spec.vocab_size)
        self.choices = {request.handle: ChoiceState(index, request) for index, request in enumerate(self._requests)}
        self._num_open = 0

    async def follow(self, take: TakeDeltas) -> None:
        """Submit, and hand every list of deltas to `take` until all choices have ended.

        What was generated at another pod is handed over first, with the exchange muted. However this ends, no choice
        is left running. Raises `EngineFailure` when a choice fails, `ClientGone` when the client left, `Overloaded`
        when the engine takes no more.
        """
        serving, exchange = self._serving, self._exchange
        known = await self._recall(take)
        requests = self._requests if known is None else [each for each in self._requests if each.handle in known]
        if not requests:
            return
        num_deaths = 0 if exchange.story is None else exchange.story.num_deaths
        stream = serving.llm.submit(requests, output_ids=known, num_deaths=num_deaths, on_death=exchange.note_death)
        self._num_open = len(requests)
        serving.metrics.count_begin(self._num_open)
        take = exchange.recording(take, self._origin, self._requests)
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

    async def _recall(self, take: TakeDeltas) -> Mapping[int, bytes] | None:
        """Take up what another pod has generated; returns the tokens of each choice that goes on, by handle."""
        exchange, story = self._exchange, self._exchange.story
        if story is None or story.head is None:
            return None
        exchange.is_muted, now = True, self._serving.clock()
        for deltas in story.deltas_of(self._requests):
            for delta in deltas:
                state = self.choices[delta.handle]
                if delta.token_ids:
                    state.num_cached = delta.num_cached if state.last_at is None else state.num_cached
                    state.num_outputs, state.last_at = delta.num_outputs, now
            await take(deltas)
        exchange.is_muted = False
        outputs = zip(self._requests, story.output_ids(len(self._requests)), strict=True)
        return {request.handle: known for request, known in outputs if known is not None}

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

    def head(self, kind: str) -> dict[str, Any]:
        """The fields with which every answer and every event begins."""
        return {
            "id": self._origin.name,
            "object": kind,
            "created": self._origin.created,
            "model": self._serving.model,
            "system_fingerprint": self._origin.fingerprint,
        }


def origin_of(serving: Serving, exchange: PodExchange, prefix: str) -> Origin:
    """What the answer says of itself: as the pod said that began it, else with a new name such as `cmpl-…`."""
    if exchange.story is not None and exchange.story.head is not None:
        return exchange.story.head.origin
    name = f"{prefix}-{uuid.uuid4().hex}"
    return Origin(name=name, created=int(time.time()), fingerprint=serving.fingerprint)
