"""One rank: its device, its part of the model, its KV cache and the runner over them, whatever the device is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from penstock.config import ComputeConfig, EngineConfig
from penstock.core.plan import StepPlan
from penstock.errors import ConfigError
from penstock.kv_transfer.kv_blocks import KvBlocks
from penstock.logs import event
from penstock.worker.capacity import Capacity
from penstock.worker.gpu.device import GpuFacts, look_at_gpu
from penstock.worker.phases import Phases
from penstock.worker.step import StepHandle

_log = logging.getLogger(__name__)


class Worker(Protocol):
    """Loads on `start`, then runs one plan after the other."""

    def start(self) -> Capacity:
        """Load the model, allocate the cache and run a first step. Raises ModelError, OutOfMemory or ConfigError."""

    def submit(self, plan: StepPlan) -> StepHandle:
        """Begin a step; handles are waited for in the order of `submit`, perhaps by another thread."""

    def capture_next(self) -> bool:
        """Prepare one more thing that makes later steps faster; False if nothing is left. For when no plan waits."""

    @property
    def kv_blocks(self) -> KvBlocks:
        """The KV cache, for what moves blocks outside the steps; once there is one."""


def build_worker(config: EngineConfig, folder: Path, phases: Phases | None = None) -> Worker:
    """The worker for the device that the configuration asks for. Raises `ConfigError` for one that cannot be had."""
    phases = phases or Phases()
    with phases.measure("imports"):  # torch takes a second, and Triton is for those who need it
        if choose_device(config.compute) == "cpu":
            from penstock.worker.cpu.worker import CpuWorker

            return CpuWorker(config, folder, phases)
        from penstock.worker.gpu.worker import build_gpu_worker

    return build_gpu_worker(config, folder, phases)


def choose_device(compute: ComputeConfig, facts: GpuFacts | None = None) -> str:
    """`cpu` or `cuda`; auto takes a GPU that can be used. Raises `ConfigError` if one was asked for that cannot."""
    if compute.device == "cpu":
        return "cpu"
    facts = facts or look_at_gpu()
    if (problem := facts.problem) is None:
        return "cuda"
    if compute.device == "cuda":
        raise ConfigError("device", f"cuda was asked for, but {problem}, or use --device cpu")
    if facts.has_driver:
        event(_log, "gpu.unused", level=logging.WARNING, why=problem)
    return "cpu"
