"""What a pod writes down of an answer while it gives it, and what another pod makes of it to go on.

A record goes with every frame (`penstock.internal.frames`): the first holds the head, each of them the deltas that are
behind the frame's payload. The router keeps them as bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from penstock.core.request import Request
from penstock.engine.output import OutputDelta, TokenLogprob
from penstock.errors import InvalidRequest

TakeDeltas = Callable[[Sequence[OutputDelta]], Awaitable[None]]


class Origin(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What an answer says of itself, wherever it goes on."""

    name: str  # its id
    created: int  # seconds since 1970
    fingerprint: str  # of the system that began it


class ChoiceHead(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What was decided for a choice when it began."""

    seed: int
    max_total: int  # prompt plus output tokens


class Head(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The beginning of an answer."""

    origin: Origin
    choices: list[ChoiceHead]  # in order of their index


class DeltaRecord(msgspec.Struct, frozen=True, array_like=True):
    """An `OutputDelta` without what the request tells."""

    index: int  # of the choice
    text: str
    token_ids: tuple[int, ...]
    num_cached: int
    finish_reason: str | None
    stop_reason: int | str | None
    logprobs: tuple[TokenLogprob, ...]
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Deltas that were handed on together, and the head where it has not been told yet."""

    head: Head | None
    deltas: list[DeltaRecord]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Record)


class Scribe:
    """Writes the records of one answer."""

    def __init__(self, origin: Origin, requests: Sequence[Request], *, is_head_told: bool) -> None:
        self._indexes = {request.handle: index for index, request in enumerate(requests)}
        choices = [ChoiceHead(seed=each.sampling.seed or 0, max_total=each.max_total) for each in requests]
        self._head = None if is_head_told else Head(origin=origin, choices=choices)

    def write(self, deltas: Sequence[OutputDelta]) -> bytes:
        """The record of deltas that came together."""
        rows = [
            DeltaRecord(
                self._indexes[delta.handle],
                delta.text,
                delta.token_ids,
                delta.num_cached,
                delta.finish_reason,
                delta.stop_reason,
                delta.logprobs,
                delta.prompt_logprobs,
            )
            for delta in deltas
        ]
        head, self._head = self._head, None
        return _ENCODER.encode(Record(head, rows))


@dataclass(slots=True, kw_only=True)
class Story:
    """What the router tells beside the client's own words, records included. Fresh for a request that begins here."""

    num_deaths: int = 0
    prefiller: str = ""
    head: Head | None = None
    deltas: list[list[DeltaRecord]] = field(default_factory=list)  # by record
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that a whole answer carries beside OpenAI's

    @classmethod
    def read(cls, records: Sequence[bytes], *, num_deaths: int, prefiller: str) -> Story:
        """From the records of all frames so far; raises `InvalidRequest` for bytes that are none."""
        try:
            told = [_DECODER.decode(record) for record in records]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"records: {error}", "records") from None
        head = told[0].head if told else None
        if told and head is None:
            raise InvalidRequest("records: the first one has no head", "records")
        return cls(
            num_deaths=num_deaths,
            prefiller=prefiller,
            head=head,
            deltas=[record.deltas for record in told if record.deltas],
        )

    def settle(self, requests: Sequence[Request], vocab_size: int) -> list[Request]:
        """The requests with what was decided for them elsewhere; raises `InvalidRequest` if the records do not fit."""
        if self.prefiller:
            requests = [msgspec.structs.replace(request, prefiller=self.prefiller) for request in requests]
        if self.head is None:
            return list(requests)
        self._check(requests, vocab_size)
        return [
            msgspec.structs.replace(
                request,
                sampling=msgspec.structs.replace(request.sampling, seed=choice.seed),
                max_total=min(request.max_total, choice.max_total),
            )
            for request, choice in zip(requests, self.head.choices, strict=True)
        ]

    def _check(self, requests: Sequence[Request], vocab_size: int) -> None:
        """Raise `InvalidRequest` for records of another request, or of another model."""
        counts = [0] * len(requests)
        is_good = self.head is not None and len(self.head.choices) == len(requests)
        for row in self._rows():
            is_good = is_good and 0 <= row.index < len(requests)
            is_good = is_good and all(0 <= token_id < vocab_size for token_id in row.token_ids)
            if not is_good:
                break
            counts[row.index] += len(row.token_ids)
        rooms = (request.max_total - request.num_prompt for request in requests)
        if not is_good or any(count > room for count, room in zip(counts, rooms, strict=True)):
            raise InvalidRequest("records: they are of another request", "records")

    def _rows(self) -> Iterator[DeltaRecord]:
        return (row for rows in self.deltas for row in rows)

    def deltas_of(self, requests: Sequence[Request]) -> list[list[OutputDelta]]:
        """What was handed on elsewhere, for the requests of this pod, in the same groups."""
        counts = [0] * len(requests)
        return [[delta_of(row, requests[row.index], counts) for row in rows] for rows in self.deltas]

    def output_ids(self, num_choices: int) -> list[bytes | None]:
        """By choice: its tokens so far as int32, or None if it has ended."""
        tokens: list[list[int]] = [[] for _ in range(num_choices)]
        ended = set()
        for row in self._rows():
            tokens[row.index].extend(row.token_ids)
            if row.finish_reason is not None:
                ended.add(row.index)
        return [
            None if index in ended else np.array(known, dtype="<i4").tobytes() for index, known in enumerate(tokens)
        ]


def delta_of(row: DeltaRecord, request: Request, counts: list[int]) -> OutputDelta:
    """A delta as it was; `counts` are the output tokens of each choice so far, and go on."""
    counts[row.index] += len(row.token_ids)
    return OutputDelta(
        handle=request.handle,
        choice=request.choice,
        text=row.text,
        token_ids=row.token_ids,
        logprobs=row.logprobs,
        finish_reason=row.finish_reason,
        stop_reason=row.stop_reason,
        num_prompt=request.num_prompt,
        num_cached=row.num_cached,
        num_outputs=counts[row.index],
        prompt_logprobs=row.prompt_logprobs,
        error=None,
    )
