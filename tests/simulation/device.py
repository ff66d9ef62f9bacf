"""A device whose memory can be watched: it writes positions of a step one after another, and checks all it reads.

The "KV" of a position is a number that names all tokens up to it, and the next token is a function of that number: so a
block that is wrong, torn, stale or not written yet gives itself away at the next read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

import numpy as np

from penstock.core.plan import StepPlan, StepResult, no_ints

BLOCK_SIZE = 4
VOCABULARY = 61
EOS = 7
NOTHING = 0  # content of memory that nobody wrote

Content = list[int]  # [BLOCK_SIZE]


def follow(before: int, token: int) -> int:
    """The content of a position, from that of the position before it; the same in every process."""
    return hash((before, token))


def next_token(content: int) -> int:
    """What the model says after a position of that content."""
    return (content >> 7) % VOCABULARY + 1


def contents_of(tokens: list[int]) -> list[int]:
    """Of all positions."""
    contents, last = [], NOTHING
    for token in tokens:
        last = follow(last, token)
        contents.append(last)
    return contents


def answer_to(prompt: list[int], max_tokens: int) -> list[int]:
    """What a request must be answered, wherever and however it is computed."""
    last, answer = contents_of(prompt)[-1], []
    while len(answer) < max_tokens and (not answer or answer[-1] != EOS):
        answer.append(next_token(last))
        last = follow(last, answer[-1])
    return answer


class WrongContent(AssertionError):
    """A block does not hold what it should."""


@dataclass(slots=True)
class Row:
    tokens: list[int]
    contents: list[int]  # of the known tokens
    num_computed: int
    blocks: list[int]


@dataclass(slots=True)
class Writing:
    """A step that runs: positions that are not written yet, and what has been sampled."""

    plan: StepPlan
    left: list[tuple[int, int]]  # (row, how many of its positions)
    sampled: list[tuple[int, int]] = field(default_factory=list)


class Device:
    """Runs plans in order."""

    def __init__(self, num_blocks: int) -> None:
        self.memory: list[Content] = [[NOTHING] * BLOCK_SIZE for _ in range(num_blocks)]
        self.is_delayed = False  # nothing runs just now
        self._rows: dict[int, Row] = {}
        self._steps: deque[Writing] = deque()

    @property
    def is_busy(self) -> bool:
        return bool(self._steps)

    @property
    def to_write(self) -> set[int]:
        """Blocks that the step which runs is still going to write to."""
        found = set()
        for number, count in self._steps[0].left if self._steps else ():
            row = self._rows[number]
            found |= {row.blocks[at // BLOCK_SIZE] for at in range(row.num_computed, row.num_computed + count)}
        return found

    def submit(self, plan: StepPlan) -> None:
        self._steps.append(Writing(plan, []))
        if len(self._steps) == 1:
            self._begin(self._steps[0])

    def work(self, random: Random) -> StepResult | None:
        """Write some positions of the oldest step; its result, if that was the last."""
        step = self._steps[0]
        while step.left:
            row, count = step.left.pop()
            part = count if random.random() < 0.6 else random.randint(1, count)
            self._write(step, row, part)
            if part < count:
                step.left.append((row, count - part))
            if random.random() < 0.3:
                break
        if step.left:
            return None
        self._steps.popleft()
        if self._steps:
            self._begin(self._steps[0])
        return result_of(step)

    def _begin(self, step: Writing) -> None:
        plan, rows = step.plan, self._rows
        for row in plan.freed_rows.tolist():
            del rows[row]
        for new in plan.new_rows:
            tokens = new.token_ids.tolist()
            rows[new.row] = Row(tokens, contents_of(tokens), new.num_computed, new.block_ids.tolist())
        for row, block in zip(plan.block_rows.tolist(), plan.block_ids.tolist(), strict=True):
            rows[row].blocks.append(block)
        for row, count in zip(plan.rows.tolist(), plan.num_tokens.tolist(), strict=True):
            self._check(row, rows[row].num_computed)
            step.left.append((row, count))

    def _write(self, step: Writing, number: int, count: int) -> None:
        row = self._rows[number]
        end = row.num_computed + count
        for position in range(row.num_computed, end):
            block, offset = divmod(position, BLOCK_SIZE)
            self.memory[row.blocks[block]][offset] = row.contents[position]
        row.num_computed = end
        if end == len(row.tokens):
            self._check(number, end)
            token = next_token(row.contents[-1])
            row.tokens.append(token)
            row.contents.append(follow(row.contents[-1], token))
            step.sampled.append((number, token))

    def _check(self, number: int, end: int) -> None:
        """All that a row is going to attend to must be right."""
        row = self._rows[number]
        for index in range(-(-end // BLOCK_SIZE)):
            begin = index * BLOCK_SIZE
            want = row.contents[begin : min(begin + BLOCK_SIZE, end)]
            if self.memory[row.blocks[index]][: len(want)] != want:
                raise WrongContent(f"row {number} would read wrong KV from block {row.blocks[index]}")


def result_of(step: Writing) -> StepResult:
    order = {row: index for index, row in enumerate(step.plan.rows.tolist())}
    sampled = sorted(step.sampled, key=lambda pair: order[pair[0]])
    return StepResult(
        step=step.plan.step,
        rows=np.array([row for row, _ in sampled], dtype=np.int32),
        token_ids=np.array([token for _, token in sampled], dtype=np.int32),
        logprobs=None,
        prompt_logprobs=(),
        failed_rows=no_ints(),
        elapsed=0.001,
    )


def int32(tokens: list[int]) -> bytes:
    return np.array(tokens, dtype="<i4").tobytes()
