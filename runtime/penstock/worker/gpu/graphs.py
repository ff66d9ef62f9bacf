"""Which steps run as graphs, and the graphs: captured one by one, while others already serve.

```
every request decodes, few enough   → one graph: input, all segments, logits; padded with the dummy row
other steps, few enough tokens      → a graph for each piece between two attentions; padded with tokens of nobody
larger ones, or not captured yet    → segment by segment
```
"""

from __future__ import annotations

import enum
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from penstock.worker.gpu.forward import Forward, run_all
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.stream import Stream, Work

DECODE_SIZES = (1, 2, 4, *range(8, 257, 8), *range(272, 513, 16))
MIXED_SIZES = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
MOST_PADDING = 2.0  # a step of mixed requests is not padded to more than so many times its tokens


class Mode(enum.Enum):
    """How a step runs."""

    FULL = "full"
    PIECEWISE = "piecewise"
    EAGER = "eager"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDescriptor:
    """All of a step that decides how it runs."""

    num_tokens: int
    num_requests: int
    is_decode: bool  # every request has one token, and nothing but the next token is wanted of it


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSizes:
    """Sizes that are captured, or are to be. # each ascending"""

    decode: tuple[int, ...] = ()  # requests
    mixed: tuple[int, ...] = ()  # tokens

    @classmethod
    def up_to(cls, *, max_requests: int, max_tokens: int, has_decode: bool = True) -> GraphSizes:
        """The usual sizes for steps of at most so much, and the largest step of decodes itself."""
        most = min(max_requests, max_tokens)
        decode = [size for size in DECODE_SIZES if size < most]
        if most <= DECODE_SIZES[-1]:
            decode.append(most)
        return cls(
            decode=tuple(decode) if has_decode else (),
            mixed=tuple(size for size in MIXED_SIZES if size <= max_tokens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """How a step runs, and as what: its tokens and requests with their padding."""

    mode: Mode
    num_tokens: int
    num_requests: int


def dispatch(descriptor: BatchDescriptor, sizes: GraphSizes) -> Dispatch:
    """The smallest captured graph that the step fits into, if there is one."""
    if descriptor.is_decode and (size := _next(descriptor.num_requests, sizes.decode)):
        return Dispatch(mode=Mode.FULL, num_tokens=size, num_requests=size)
    size = _next(descriptor.num_tokens, sizes.mixed)
    if size and size <= MOST_PADDING * descriptor.num_tokens:
        return Dispatch(mode=Mode.PIECEWISE, num_tokens=size, num_requests=descriptor.num_requests)
    return Dispatch(mode=Mode.EAGER, num_tokens=descriptor.num_tokens, num_requests=descriptor.num_requests)


def _next(count: int, sizes: tuple[int, ...]) -> int | None:
    """The smallest of ascending `sizes` that is at least `count`."""
    index = bisect_left(sizes, count)
    return sizes[index] if index < len(sizes) else None


@dataclass(slots=True, kw_only=True)
class _Captured:
    """What there is so far."""

    decode: dict[int, Work] = field(default_factory=dict)
    mixed: dict[int, list[Work]] = field(default_factory=dict)  # pieces between attentions, in order


class GraphSet:
    """Captures graphs of the wanted sizes, largest first, and makes the work of each step from what there is."""

    def __init__(self, forward: Forward, table: DeviceTable, stream: Stream, wanted: GraphSizes) -> None:
        self._forward, self._table, self._stream = forward, table, stream
        self._captured = _Captured()
        self.sizes = GraphSizes()  # what has been captured
        self._pending = [(size, Mode.FULL) for size in wanted.decode] + [(s, Mode.PIECEWISE) for s in wanted.mixed]
        self._pending.sort(key=lambda entry: (entry[1] is Mode.FULL, entry[0]))

    @property
    def num_pending(self) -> int:
        """Graphs still to be captured."""
        return len(self._pending)

    def capture_largest(self) -> None:
        """The largest of each kind, whose memory the others share."""
        for mode in (Mode.PIECEWISE, Mode.FULL):
            sizes = [size for size, kind in self._pending if kind is mode]
            if sizes:
                self._pending.remove((max(sizes), mode))
                self._capture(max(sizes), mode)

    def capture_next(self) -> bool:
        """Capture one more; False if there was none left. Between steps only."""
        if not self._pending:
            return False
        self._capture(*self._pending.pop())
        return True

    def step(self, chosen: Dispatch, *, most: int) -> Work:
        """The step that was dispatched, from a state table that knows it; `most` tokens of one request."""
        if chosen.mode is Mode.FULL:
            return self._captured.decode[chosen.num_tokens]
        prepare, segments = self._forward.pieces(chosen.num_requests, chosen.num_tokens, most=most)
        if chosen.mode is Mode.EAGER:
            return run_all(prepare, [segment.run for segment in segments])
        graphs = iter(self._captured.mixed[chosen.num_tokens])
        return run_all(prepare, [segment.run if segment.is_attention else next(graphs) for segment in segments])

    def _capture(self, size: int, mode: Mode) -> None:
        """Run it once with the dummy row, so that nothing is compiled or loaded while it is captured, then capture."""
        is_full = mode is Mode.FULL
        self._table.set_dummy_step(size if is_full else 1)
        self._table.send()
        if is_full:
            work = self._forward.decode(size)
            self._stream.enqueue(work)
            self._captured.decode[size] = self._stream.capture(work)
        else:
            prepare, segments = self._forward.pieces(1, size, most=1)
            self._stream.enqueue(run_all(prepare, [segment.run for segment in segments]))
            pieces = [segment.run for segment in segments if not segment.is_attention]
            self._captured.mixed[size] = [self._stream.capture(piece) for piece in pieces]
        decode, mixed = list(self.sizes.decode), list(self.sizes.mixed)
        insort(decode if is_full else mixed, size)
        self.sizes = GraphSizes(decode=tuple(decode), mixed=tuple(mixed))
