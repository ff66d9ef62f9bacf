"""Answers of completions and chat, whole or as a stream; what differs between the two is in their writers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penstock.engine.output import OutputDelta
from penstock.server.openai.generation import ChoiceState, Generation
from penstock.server.openai.protocol import GenerationRequest
from penstock.server.openai.sse import DONE, EventFrame
from penstock.server.pod_exchange import PodExchange


class Writer(Protocol):
    """Turns deltas into the JSON of a choice."""

    stream_object: str
    text_key: bytes
    is_plain: bool  # an event that neither begins nor ends a choice holds nothing but text
    hides_output: bool  # only numbers of the prompt are wanted

    def text_value(self, text: str) -> bytes:
        """What follows `text_key` in an event with nothing but text."""

    def first_events(self, state: ChoiceState) -> list[dict[str, Any]]:
        """What a stream says of a choice before its first token."""

    def part(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """A choice in an event of a stream."""

    def whole(self, state: ChoiceState, deltas: Sequence[OutputDelta]) -> dict[str, Any]:
        """A choice in an answer that comes at once."""


async def reply(
    exchange: PodExchange, generation: Generation, writer: Writer, request: GenerationRequest, head: dict[str, Any]
) -> None:
    """Run the generation and answer with it."""
    if request.stream:
        await StreamReply(exchange, generation, writer, request, head).run()
        return
    collected: dict[int, list[OutputDelta]] = {handle: [] for handle in generation.choices}

    async def take(deltas: Sequence[OutputDelta]) -> None:
        for delta in deltas:
            collected[delta.handle].append(delta)

    await generation.follow(take)
    choices = [writer.whole(generation.choices[handle], deltas) for handle, deltas in collected.items()]
    extra = {} if exchange.story is None else exchange.story.extra
    await exchange.respond_json({**head, "choices": choices, "usage": usage_of(generation, writer), **extra})


def usage_of(generation: Generation, writer: Writer) -> dict[str, Any]:
    """The usage that the client is shown."""
    usage = generation.usage()
    if writer.hides_output:
        usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
    return usage


class StreamReply:
    """One stream of events. Its head goes out with the first tokens, so that what fails before has its own status."""

    def __init__(
        self,
        exchange: PodExchange,
        generation: Generation,
        writer: Writer,
        request: GenerationRequest,
        head: dict[str, Any],
    ) -> None:
        self._exchange, self._generation, self._writer = exchange, generation, writer
        self._choices = generation.choices
        self._has_usage, self._has_running_usage = request.has_usage_chunk, request.has_running_usage
        self._is_plain = writer.is_plain and request.prompt_logprobs is None and not self._has_running_usage
        self._frame = EventFrame(head | {"object": writer.stream_object}, has_usage=self._has_usage)

    async def run(self) -> None:
        """Send everything."""
        await self._generation.follow(self._take)
        events = self._frame.usage_event(usage_of(self._generation, self._writer)) if self._has_usage else b""
        await self._exchange.end_stream(events + DONE)

    async def _take(self, deltas: Sequence[OutputDelta]) -> None:
        frame, writer, choices, is_plain = self._frame, self._writer, self._choices, self._is_plain
        events = []
        for delta in deltas:
            state = choices[delta.handle]
            if is_plain and delta.finish_reason is None and state.has_begun:
                if delta.text:
                    events.append(frame.event(state.index, writer.text_key, writer.text_value(delta.text)))
            else:
                events += self._full_events(state, delta)
        if events:
            if not self._exchange.is_streaming:
                await self._exchange.start_stream()
            await self._exchange.send(b"".join(events))

    def _full_events(self, state: ChoiceState, delta: OutputDelta) -> list[bytes]:
        usage = usage_of(self._generation, self._writer) if self._has_running_usage else None
        first = [] if state.has_begun else self._writer.first_events(state)
        choices = [*first, self._writer.part(state, (delta,))]
        return [self._frame.full_event(choice, usage) for choice in choices]
