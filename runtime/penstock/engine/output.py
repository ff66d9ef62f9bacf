"""From the engine's columns to what a client sees: text, stop strings, logprobs, usage, and the replay list."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from penstock.core.plan import TokenLogprobs
from penstock.core.request import FinishReason, Request
from penstock.engine.detokenizer import Detokenizer, StopStrings
from penstock.engine.messages import AddRequest, PromptLogprobsOf, StepOutputs
from penstock.tokenizer import Tokenizer

REASONS = ("", "stop", "length", "abort", "error")  # FinishReason -> OpenAI's word


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log-probability (natural log, before any sampling adjustment) of a token, and its best alternatives."""

    token_id: int
    logprob: float
    rank: int  # 1 is the most likely
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), best first


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDelta:
    """What is new of one choice. Texts, tokens and logprobs of its deltas join to the whole choice.

    Tokens come with their logprobs at once; their text may come later, when it cannot be part of a stop string.
    """

    handle: int
    choice: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]  # as many as token_ids, or none if not asked for
    finish_reason: str | None  # "stop", "length", "abort", "error"; None: it goes on
    stop_reason: int | str | None  # the stop token or stop string; None for the model's own end of text
    num_prompt: int
    num_cached: int  # prompt tokens found in the prefix cache
    num_outputs: int  # of the choice so far, up to and including the token that completed a stop string
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None  # once, with the first token; the first entry is None
    error: str | None  # a sentence, with finish_reason "error"


class Choice:
    """One unfinished request: what was sampled so far and what the client saw of it."""

    __slots__ = ("detokenizer", "num_cached", "output_ids", "prompt_logprobs", "request", "sink", "stops")

    def __init__(self, request: Request, sink: Callable[[OutputDelta], None], tokenizer: Tokenizer) -> None:
        sampling = request.sampling
        self.request = request
        self.sink = sink
        self.detokenizer = Detokenizer(tokenizer, skip_special_tokens=sampling.skip_special_tokens)
        self.stops = StopStrings(sampling.stop) if sampling.stop else None
        self.output_ids = array("i")
        self.num_cached = -1  # not told yet; the first answer counts, also after preemption or replay
        self.prompt_logprobs: list[TokenLogprob | None] | None = (
            None if sampling.prompt_logprobs is None else [None] * request.num_prompt
        )

    def accept(self, token_id: int, reason: int) -> tuple[str, str | None]:
        """Take one token; returns the text to give out and the stop string that it completed, if any."""
        sampling = self.request.sampling
        self.output_ids.append(token_id)
        is_hidden = reason == FinishReason.STOP and not sampling.include_stop_str_in_output
        text = "" if is_hidden else self.detokenizer.feed(token_id)
        stop = None
        if self.stops is not None:
            text, stop = self.stops.feed(text, is_active=len(self.output_ids) >= sampling.min_tokens)
            if stop is not None:
                return (text + stop if sampling.include_stop_str_in_output else text), stop
        return (text + self.flush() if reason else text), None

    def flush(self) -> str:
        """All text that was held back, for a choice that ends."""
        held = self.stops.finish() if self.stops is not None else ""
        return held + self.detokenizer.finish()

    def add_prompt_logprobs(self, news: PromptLogprobsOf) -> None:
        """Keep a chunk; a chunk that comes again after preemption or replay overwrites itself."""
        if self.prompt_logprobs is None:
            return
        width = self.request.sampling.prompt_logprobs or 0
        prompt_ids = self.request.prompt_array()[news.start : news.start + len(news.token)]
        columns = (prompt_ids, news.token, news.rank, news.top_ids[:, :width], news.top[:, :width])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self.prompt_logprobs[news.start : news.start + len(prompt_ids)] = [
            TokenLogprob(token_id=token_id, logprob=logprob, rank=rank, top=tuple(zip(top_ids, top, strict=True)))
            for token_id, logprob, rank, top_ids, top in rows
        ]

    def take_prompt_logprobs(self) -> tuple[TokenLogprob | None, ...] | None:
        """All prompt logprobs, the first time; None before they were asked for and afterwards."""
        if self.prompt_logprobs is None:
            return None
        complete, self.prompt_logprobs = tuple(self.prompt_logprobs), None
        return complete

    def delta(
        self,
        *,
        text: str = "",
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] = (),
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
        error: str | None = None,
    ) -> OutputDelta:
        """The news of this choice, with its usage so far."""
        request = self.request
        return OutputDelta(
            handle=request.handle,
            choice=request.choice,
            text=text,
            token_ids=token_ids,
            logprobs=logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            num_prompt=request.num_prompt,
            num_cached=max(0, self.num_cached),
            num_outputs=len(self.output_ids),
            prompt_logprobs=self.take_prompt_logprobs() if token_ids else None,
            error=error,
        )


class OutputProcessor:
    """All unfinished requests of one front-end. Outputs of requests that it does not know are ignored."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._choices: dict[int, Choice] = {}

    def __len__(self) -> int:
        return len(self._choices)

    def add(self, request: Request, sink: Callable[[OutputDelta], None], output_ids: bytes = b"") -> None:
        """Follow a request; `sink` gets each delta. `output_ids` (int32) were given out before and are not again."""
        choice = Choice(request, sink, self._tokenizer)
        for token_id in np.frombuffer(output_ids, dtype="<i4").tolist():
            choice.accept(token_id, FinishReason.NONE)
        if output_ids:
            choice.prompt_logprobs = None
        self._choices[request.handle] = choice

    def process(self, outputs: StepOutputs) -> list[int]:
        """Hand one step's news to the sinks; returns the handles to abort because a stop string was met."""
        for handle, num_cached in outputs.started:
            if (choice := self._choices.get(handle)) and choice.num_cached < 0:
                choice.num_cached = num_cached
        for news in outputs.prompt_logprobs:
            if choice := self._choices.get(news.handle):
                choice.add_prompt_logprobs(news)
        for handle, message in outputs.failed:
            self.fail(handle, message)
        rows = sampled_logprobs(outputs.logprobs)
        to_abort = []
        columns = zip(outputs.handles.tolist(), outputs.token_ids.tolist(), outputs.finish.tolist(), strict=True)
        for index, (handle, token_id, reason) in enumerate(columns):
            choice = self._choices.get(handle)
            if choice is not None and self._take(choice, token_id, reason, rows.get(index)):
                to_abort.append(handle)
        return to_abort

    def _take(self, choice: Choice, token_id: int, reason: int, row: LogprobRow | None) -> bool:
        """Hand one token to its sink; True if the engine must be told to stop."""
        request = choice.request
        text, stop = choice.accept(token_id, reason)
        stop_reason: int | str | None = stop
        if stop is None and reason == FinishReason.STOP and token_id in request.sampling.stop_token_ids:
            stop_reason = token_id
        finish_reason = "stop" if stop is not None else REASONS[reason] or None
        if finish_reason is not None:
            del self._choices[request.handle]
        choice.sink(
            choice.delta(
                text=text,
                token_ids=(token_id,),
                logprobs=token_logprobs(token_id, row, request.sampling.logprobs),
                finish_reason=finish_reason,
                stop_reason=stop_reason,
            )
        )
        return stop is not None and reason == FinishReason.NONE

    def in_flight(self) -> list[AddRequest]:
        """Every unfinished request with the tokens sampled so far, oldest first: what a new engine must be told."""
        return [
            AddRequest(request=choice.request, output_ids=choice.output_ids.tobytes())
            for choice in self._choices.values()
        ]

    def drop(self, handle: int) -> None:
        """Forget a request whose client left; unknown handles are ignored."""
        self._choices.pop(handle, None)

    def fail(self, handle: int, message: str) -> None:
        """End a request with an error; unknown handles are ignored."""
        choice = self._choices.pop(handle, None)
        if choice is not None:
            choice.sink(choice.delta(text=choice.flush(), finish_reason="error", error=message))


LogprobRow = tuple[float, int, list[int], list[float]]  # logprob, rank, top ids, top logprobs


def sampled_logprobs(logprobs: TokenLogprobs | None) -> dict[int, LogprobRow]:
    """Index into the token columns -> its row of log-probabilities."""
    if logprobs is None:
        return {}
    columns = (logprobs.sampled, logprobs.rank, logprobs.top_ids, logprobs.top)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(logprobs.index.tolist(), rows, strict=True))


def token_logprobs(token_id: int, row: LogprobRow | None, width: int | None) -> tuple[TokenLogprob, ...]:
    """The entry of one token with as many alternatives as asked for; the engine sends as many as any request wants."""
    if row is None or width is None:
        return ()
    logprob, rank, top_ids, top = row
    best = tuple(zip(top_ids[:width], top[:width], strict=True))
    return (TokenLogprob(token_id=token_id, logprob=logprob, rank=rank, top=best),)
