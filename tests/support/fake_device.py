"""A device that computes nothing but checks everything: it keeps rows, block tables and block contents as a real one.

The "KV" of a position is a fingerprint of all tokens up to it, so a block that is shared wrongly, reused too early or
written by another row is noticed at the next read. The next token is a function of all tokens before it.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from penstock.core.plan import StepPlan, StepResult, no_ints

VOCABULARY = 1000
EOS = 7


def fingerprint(tokens: np.ndarray) -> int:
    """64 bits that name a token sequence."""
    return int.from_bytes(
        blake2b(np.ascontiguousarray(tokens, dtype="<i4").tobytes(), digest_size=8).digest(), "little"
    )


def next_token(tokens: np.ndarray) -> int:
    """The token that the fake model says after `tokens`."""
    return fingerprint(tokens) % VOCABULARY


def expected_outputs(prompt: np.ndarray, max_total: int, stop_ids: tuple[int, ...]) -> list[int]:
    """What an engine must answer: greedy continuation, one at a time, alone."""
    tokens = list(prompt)
    while len(tokens) < max_total:
        tokens.append(next_token(np.array(tokens)))
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


@dataclass
class Row:
    tokens: list[int]
    num_computed: int
    blocks: list[int]


@dataclass
class FakeDevice:
    """Executes plans in order, at once."""

    num_blocks: int
    block_size: int
    depth: int = 1
    rows: dict[int, Row] = field(default_factory=dict)
    contents: dict[tuple[int, int], int] = field(default_factory=dict)
    num_executed: int = 0

    def submit(self, plan: StepPlan) -> Done:
        return Done(self.execute(plan))

    def close(self) -> None:
        self.rows.clear()

    def execute(self, plan: StepPlan) -> StepResult:
        self.num_executed += 1
        for row in plan.freed_rows.tolist():
            del self.rows[row]
        for new in plan.new_rows:
            assert new.row not in self.rows, f"row {new.row} is taken"
            self.rows[new.row] = Row(new.token_ids.tolist(), new.num_computed, new.block_ids.tolist())
        for row, block in zip(plan.block_rows.tolist(), plan.block_ids.tolist(), strict=True):
            self.rows[row].blocks.append(block)
        held = [(row, block) for row, state in self.rows.items() for block in state.blocks]
        assert all(0 < block < self.num_blocks for _, block in held)
        sampled = [self.run(row, n) for row, n in zip(plan.rows.tolist(), plan.num_tokens.tolist(), strict=True)]
        pairs = [(row, token) for row, token in sampled if token is not None]
        return StepResult(
            step=plan.step,
            rows=np.array([row for row, _ in pairs], dtype=np.int32),
            token_ids=np.array([token for _, token in pairs], dtype=np.int32),
            logprobs=None,
            prompt_logprobs=(),
            failed_rows=no_ints(),
            elapsed=0.001 * len(pairs) + 0.0001 * plan.num_scheduled,
        )

    def run(self, row: int, count: int) -> tuple[int, int | None]:
        state = self.rows[row]
        end = state.num_computed + count
        assert end <= len(state.tokens), f"row {row} is asked for tokens that nobody knows"
        assert end <= len(state.blocks) * self.block_size, f"row {row} has no block for position {end - 1}"
        tokens = np.array(state.tokens)
        for position in range(state.num_computed):
            place = (state.blocks[position // self.block_size], position % self.block_size)
            assert self.contents.get(place) == fingerprint(tokens[: position + 1]), (
                f"row {row}: wrong KV at {position}, block {place[0]}"
            )
        for position in range(state.num_computed, end):
            place = (state.blocks[position // self.block_size], position % self.block_size)
            self.contents[place] = fingerprint(tokens[: position + 1])
        state.num_computed = end
        if end < len(state.tokens):
            return row, None
        token = next_token(tokens)
        state.tokens.append(token)
        return row, token


@dataclass(frozen=True)
class Done:
    result: StepResult

    def wait(self) -> StepResult:
        return self.result


class AsyncFakeDevice(FakeDevice):
    """Executes plans in order on a thread of its own, each taking `step_time` seconds; counts how long it starved."""

    def __init__(self, num_blocks: int, block_size: int, depth: int, step_time: float) -> None:
        super().__init__(num_blocks, block_size, depth)
        self.step_time = step_time
        self.num_waited = 0  # steps that were not there yet when the device became free
        self._plans: queue.Queue[tuple[StepPlan, queue.Queue] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run_all)
        self._thread.start()

    def submit(self, plan: StepPlan) -> Later:
        results: queue.Queue[StepResult | BaseException] = queue.Queue()
        self._plans.put((plan, results))
        return Later(results)

    def close(self) -> None:
        self._plans.put(None)
        self._thread.join()

    def _run_all(self) -> None:
        while True:
            self.num_waited += self._plans.empty()
            work = self._plans.get()
            if work is None:
                return
            plan, results = work
            time.sleep(self.step_time)
            try:
                results.put(self.execute(plan))
            except BaseException as error:  # shown where the test waits
                results.put(error)


@dataclass(frozen=True)
class Later:
    results: queue.Queue

    def wait(self) -> StepResult:
        result = self.results.get(timeout=10)
        if isinstance(result, BaseException):
            raise result
        return result
