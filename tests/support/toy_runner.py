"""A runner over the toy model, and plans for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.worker.gpu.graphs import GraphSizes
from penstock.worker.gpu.runner import GpuRunner
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.stream import Stream
from support.runs import Run
from support.toy_model import ToyModel

NUM_ROWS, BLOCK_SIZE, NUM_BLOCKS, MAX_LEN = 6, 4, 90, 128
GRAPHS = GraphSizes(decode=(2, 4, 6), mixed=(8, 16, 32))
EAGER = GraphSizes()


def toy_prompt(seed: int, length: int, vocab_size: int = 61) -> list[int]:
    """Tokens at random."""
    return np.random.default_rng(seed).integers(0, vocab_size, length).tolist()


@dataclass(frozen=True)
class Toy:
    """A runner, and what is under it."""

    model: ToyModel
    table: DeviceTable
    runner: GpuRunner
    stream: Stream

    @classmethod
    def start(cls, stream: Stream, sizes: GraphSizes = EAGER, *, max_logits: int = 512, wait: bool = True) -> Toy:
        """With all graphs captured, if it is to `wait` for them."""
        model = ToyModel()
        table = DeviceTable(NUM_ROWS, MAX_LEN, BLOCK_SIZE, stream)
        cache = model.kv_cache(NUM_BLOCKS, BLOCK_SIZE)
        toy = cls(model, table, GpuRunner(model, cache, table, stream, sizes=sizes, max_logits=max_logits), stream)
        while wait and toy.runner.graphs.capture_next():
            pass
        return toy

    def run(self, depth: int = 1) -> Run:
        """Plans by hand, so many in flight."""
        return Run(self.runner, NUM_BLOCKS, BLOCK_SIZE, depth)
