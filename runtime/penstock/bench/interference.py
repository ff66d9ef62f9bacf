"""What running streams notice of long prompts: their inter-token latency before one comes, and while it is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.bench.load_generator import Exchange, Planned, Target, offer_planned

SHORT_TOKENS = 16  # prompt of a running stream
LONG_OUTPUT = 8  # tokens that follow a long prompt
STREAM_TOKENS = 4096  # more than a stream makes before its client leaves
SETTLE_SECONDS = 1.5  # until all streams run


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """`num_streams` streams run; after `quiet` seconds `num_long` long prompts arrive, one `every` so many seconds."""

    num_streams: int
    long_tokens: int
    num_long: int
    quiet: float
    every: float
    seed: int

    @property
    def first_long(self) -> float:
        """When the first long prompt is due, in seconds."""
        return SETTLE_SECONDS + self.quiet

    def plan(self, target: Target) -> list[Planned]:
        """All requests in order of time: the streams first. Prompts are random tokens of the seed."""
        random = np.random.default_rng(self.seed)
        end = self.first_long + self.num_long * self.every
        shorts = random.integers(100, 32_000, (self.num_streams, SHORT_TOKENS)).tolist()
        longs = random.integers(100, 32_000, (self.num_long, self.long_tokens)).tolist()
        streams = [Planned(due=0.0, body=target.body(ids, STREAM_TOKENS), leave=end) for ids in shorts]
        due = [self.first_long + index * self.every for index in range(self.num_long)]
        return streams + [
            Planned(due=moment, body=target.body(ids, LONG_OUTPUT)) for moment, ids in zip(due, longs, strict=True)
        ]

    def run(self, target: Target) -> Effect:
        """Do it; every long prompt must be answered for its effect to count."""
        exchanges = asyncio.run(offer_planned(target, self.plan(target)))
        return self.effect(exchanges)

    def effect(self, exchanges: Sequence[Exchange]) -> Effect:
        """Sort the gaps of the streams: before any long prompt, and while one waits for its first token."""
        streams, longs = exchanges[: self.num_streams], exchanges[self.num_streams :]
        windows = [(long.due, long.events[0]) for long in longs if long.is_complete]
        quiet: list[float] = []
        busy: list[float] = []
        for stream in streams:
            for earlier, later in zip(stream.events, stream.events[1:], strict=False):
                if earlier >= SETTLE_SECONDS and later < self.first_long:
                    quiet.append(later - earlier)
                elif any(earlier < end and later > begin for begin, end in windows):
                    busy.append(later - earlier)
        return Effect(
            quiet=quiet, busy=busy, long_firsts=[end - begin for begin, end in windows], texts=texts_of(longs)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Gaps between tokens of the running streams, and times to first token of the long prompts, in seconds."""

    quiet: list[float]
    busy: list[float]
    long_firsts: list[float]
    texts: list[str]  # what followed each long prompt; empty if it was not answered whole

    def figures(self) -> dict[str, float]:
        """By name, in milliseconds; NaN where nothing was seen."""
        return {
            "ITL p50, quiet": percentile(self.quiet, 50),
            "ITL p99, quiet": percentile(self.quiet, 99),
            "ITL p50, long prompts arriving": percentile(self.busy, 50),
            "ITL p99, long prompts arriving": percentile(self.busy, 99),
            "TTFT p50 of the long prompts": percentile(self.long_firsts, 50),
        }


def texts_of(exchanges: Sequence[Exchange]) -> list[str]:
    """The text of each exchange, empty for one that is not complete."""
    return [exchange.text if exchange.is_complete else "" for exchange in exchanges]


def percentile(values: Sequence[float], share: float) -> float:
    """Of seconds, in milliseconds; NaN without values."""
    return float(np.percentile(values, share)) * 1000 if values else float("nan")
