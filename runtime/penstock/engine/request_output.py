"""What `LLM` hands back: one `RequestOutput` per prompt, with attribute names that users of vLLM know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.core.request import Request
from penstock.engine.output import OutputDelta, TokenLogprob
from penstock.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """Log-probability (natural log) of one token at one place, before any sampling adjustment."""

    logprob: float
    rank: int  # 1 is the most likely
    decoded_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One finished choice."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None  # of its tokens; None if no logprobs were asked for
    logprobs: list[dict[int, Logprob]] | None  # per token, by token id: the token itself, then the best
    finish_reason: str  # "stop", "length" or "error"
    stop_reason: int | str | None  # the stop token or stop string; None for the model's own end of text
    error: str | None = None  # a sentence, with finish_reason "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """All choices of one prompt."""

    request_id: str
    prompt: str | None  # None if the prompt was given as token ids
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None  # per prompt token; the first has none
    outputs: list[CompletionOutput]
    num_cached_tokens: int  # prompt tokens found in the prefix cache

    @property
    def finished(self) -> bool:
        """True: only whole outputs are handed back."""
        return True


class OutputCollector:
    """Gathers the deltas of all choices of one prompt."""

    def __init__(
        self, requests: Sequence[Request], prompt: str | None, tokenizer: Tokenizer, on_end: Callable[[], None]
    ) -> None:
        self._request = requests[0]
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._deltas: list[list[OutputDelta]] = [[] for _ in requests]
        self._num_open = len(requests)
        self._on_end = on_end

    def take(self, delta: OutputDelta) -> None:
        """Keep one delta; calls `on_end` with the last one of the last choice."""
        self._deltas[delta.choice].append(delta)
        if delta.finish_reason is not None:
            self._num_open -= 1
            if self._num_open == 0:
                self._on_end()

    def build(self) -> RequestOutput:
        """The whole output; every choice must have ended."""
        assert self._num_open == 0, f"{self._num_open} choices of {self._request.request_id} have not ended"
        complete = next((d.prompt_logprobs for d in self._deltas[0] if d.prompt_logprobs is not None), None)
        return RequestOutput(
            request_id=self._request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self._request.prompt_array().tolist(),
            prompt_logprobs=None if complete is None else [self._named(entry) for entry in complete],
            outputs=[self._completion(index, deltas) for index, deltas in enumerate(self._deltas)],
            num_cached_tokens=self._deltas[0][-1].num_cached,
        )

    def _completion(self, index: int, deltas: Sequence[OutputDelta]) -> CompletionOutput:
        logprobs = [entry for delta in deltas for entry in delta.logprobs]
        has_logprobs = self._request.sampling.logprobs is not None
        return CompletionOutput(
            index=index,
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
            cumulative_logprob=sum(entry.logprob for entry in logprobs) if has_logprobs else None,
            logprobs=[self._named(entry) or {} for entry in logprobs] if has_logprobs else None,
            finish_reason=deltas[-1].finish_reason or "error",
            stop_reason=deltas[-1].stop_reason,
            error=deltas[-1].error,
        )

    def _named(self, entry: TokenLogprob | None) -> dict[int, Logprob] | None:
        """An entry by token id; the alternatives are ranked from 1 in their order."""
        if entry is None:
            return None
        ranked = [(entry.token_id, entry.logprob, entry.rank)]
        ranked += [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(entry.top, start=1)]
        text = self._tokenizer.token_text
        named: dict[int, Logprob] = {}
        for token_id, logprob, rank in ranked:
            named.setdefault(token_id, Logprob(logprob=logprob, rank=rank, decoded_token=text(token_id)))
        return named
