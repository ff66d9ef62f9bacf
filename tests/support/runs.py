"""Drives an executor by hand: plans for a few rows, blocks dealt out in no order, tokens collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.core.plan import NewRow, StepPlan, StepResult
from penstock.sampling.params import SamplingParams
from penstock.worker.executor import Executor
from penstock.worker.step import StepHandle

GREEDY = SamplingParams(temperature=0.0)


class Run:
    """Makes plans as a scheduler would, `depth` of them before a result is taken; the executor is started already."""

    def __init__(self, executor: Executor, num_blocks: int, block_size: int = 16, depth: int = 1) -> None:
        self.executor, self.block_size, self.depth = executor, block_size, depth
        self.free_blocks = np.random.default_rng(5).permutation(np.arange(1, num_blocks)).tolist()
        self.blocks: dict[int, list[int]] = {}
        self.num_computed: dict[int, int] = {}
        self.num_planned: dict[int, int] = {}  # tokens known, or coming from steps in flight
        self.outputs: dict[int, list[int]] = {}
        self.results: list[StepResult] = []
        self._handles: list[StepHandle] = []
        self._new: list[NewRow] = []
        self._freed: list[int] = []
        self._grown: list[tuple[int, int]] = []
        self._step = 0

    def add(
        self, row: int, prompt: Sequence[int], sampling: SamplingParams = GREEDY, *, outputs: Sequence[int] = (), **more
    ) -> None:
        """Admit a request with the next plan; `more`: stop_ids, and num_computed where a cache has its beginning."""
        known = [*prompt, *outputs]
        self.blocks[row] = [self.free_blocks.pop() for _ in range(-(-len(known) // self.block_size))]
        self.num_computed[row], self.num_planned[row] = more.get("num_computed", 0), len(known)
        self.outputs[row] = list(outputs)
        self._new.append(
            NewRow(
                row=row,
                token_ids=np.array(known, dtype=np.int32),
                num_prompt=len(prompt),
                num_computed=self.num_computed[row],
                block_ids=np.array(self.blocks[row], dtype=np.int32),
                sampling=sampling,
                stop_ids=more.get("stop_ids", ()),
            )
        )

    def free(self, row: int) -> None:
        """Give a row back with the next plan."""
        self.free_blocks.extend(self.blocks.pop(row))
        del self.num_computed[row], self.num_planned[row]
        self._freed.append(row)

    def step(self, tokens: Mapping[int, int]) -> None:
        """Plan `{row: tokens to compute}`; takes the oldest result once `depth` steps are in flight."""
        for row, count in tokens.items():
            self.num_computed[row] += count
            assert self.num_computed[row] <= self.num_planned[row]
            self.num_planned[row] += self.num_computed[row] == self.num_planned[row]
            while len(self.blocks[row]) * self.block_size < self.num_computed[row]:
                self.blocks[row].append(self.free_blocks.pop())
                self._grown.append((row, self.blocks[row][-1]))
        self._step += 1
        grown = np.array(self._grown, dtype=np.int32).reshape(-1, 2)
        plan = StepPlan(
            step=self._step,
            freed_rows=np.array(self._freed, dtype=np.int32),
            new_rows=tuple(self._new),
            block_rows=grown[:, 0].copy(),
            block_ids=grown[:, 1].copy(),
            rows=np.array(list(tokens), dtype=np.int32),
            num_tokens=np.array(list(tokens.values()), dtype=np.int32),
        )
        self._new, self._freed, self._grown = [], [], []
        self._handles.append(self.executor.submit(plan))
        if len(self._handles) >= self.depth:
            self._take()

    def finish(self) -> None:
        """Take the results that are still in flight."""
        while self._handles:
            self._take()

    def generate(self, count: int, rows: Sequence[int], chunk: int = 1 << 20) -> None:
        """Step until each row has been asked for `count` outputs, its prompt in chunks."""
        ends = {row: self.num_planned[row] + count for row in rows}
        while left := [row for row in rows if self.num_planned[row] < ends[row]]:
            self.step({row: min(chunk, self.num_planned[row] - self.num_computed[row]) for row in left})
        self.finish()

    def _take(self) -> None:
        result = self._handles.pop(0).wait()
        self.results.append(result)
        for row, token in zip(result.rows.tolist(), result.token_ids.tolist(), strict=True):
            if row in self.outputs:
                self.outputs[row].append(token)
