"""A worker's process whose GPU is a thread, and fails when a request begins with `POISON`."""

from __future__ import annotations

import sys
from pathlib import Path

from penstock.config import EngineConfig
from penstock.core.plan import StepPlan
from penstock.worker.gpu.worker import Gpu, GpuWorker
from penstock.worker.phases import Phases
from penstock.worker.process import leave, main
from penstock.worker.step import StepHandle
from support.gpu_workers import play_gpu
from support.thread_stream import ThreadStream

POISON = 299
SAID = "CUDA error: an illegal memory access was encountered"


class PoisonedWorker(GpuWorker):
    """Its device meets an illegal address in the step that takes the poison."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        self.stream = ThreadStream()
        super().__init__(config, folder, Phases(), self.open)

    def open(self) -> Gpu:
        return play_gpu(lambda: self.stream)

    def submit(self, plan: StepPlan) -> StepHandle:
        if any(row.token_ids[0] == POISON for row in plan.new_rows):
            self.stream.enqueue(fail)
        return super().submit(plan)


def fail() -> None:
    raise RuntimeError(SAID)


if __name__ == "__main__":
    leave(main(sys.argv[1:], PoisonedWorker))
