"""A rank on the CPU. Everything here may use torch."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path

import torch

from penstock import envs
from penstock.config import ComputeConfig, EngineConfig
from penstock.core.plan import StepPlan
from penstock.errors import ConfigError
from penstock.kv_transfer.kv_blocks import HostBlocks
from penstock.logs import event
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from penstock.worker.capacity import Capacity
from penstock.worker.cpu.model_runner import ModelRunner
from penstock.worker.cpu.state_table import StateTable
from penstock.worker.kv_memory import KVLayout, allocate_kv_cache, choose_max_model_len, choose_num_blocks
from penstock.worker.machine import available_memory, num_cores
from penstock.worker.phases import Phases
from penstock.worker.step import DoneStep
from penstock.worker.warm_up import warm_up_plans
from penstock_kernels.cpu import ops

_log = logging.getLogger(__name__)


class CpuWorker:
    """See `Worker`: each step is done when `submit` returns."""

    def __init__(self, config: EngineConfig, folder: Path, phases: Phases) -> None:
        self._config, self._folder, self._phases = config, folder, phases
        self._runner: ModelRunner | None = None
        self._kv_cache: torch.Tensor | None = None

    def start(self) -> Capacity:
        """See `Worker.start`."""
        begin = time.perf_counter()
        config, phases = self._config, self._phases
        check_settings(config)
        num_threads = set_threads(config.compute)
        spec = ModelSpec.from_folder(self._folder)
        max_model_len = choose_max_model_len(config, spec)
        with phases.measure("weights"):
            model = load_model(self._folder, spec, config, torch.device("cpu"))
        with phases.measure("memory"):
            layout = KVLayout.of(spec, config)
            num_blocks = choose_num_blocks(layout, config, max_model_len, available_memory())
            table = StateTable(config.scheduler.max_num_seqs, max_model_len, layout.block_size)
            self._kv_cache = allocate_kv_cache(layout, num_blocks)
        self._runner = ModelRunner(model, self._kv_cache, table)
        with phases.measure("warm_up"):
            for plan in warm_up_plans(layout, min(max_model_len - 1, (num_blocks - 1) * layout.block_size)):
                self.submit(plan)
            gc.collect()
            gc.freeze()  # what was loaded lives as long as the process: never look at it again
        seconds = time.perf_counter() - begin
        phases.tell()
        event(_log, "worker.ready", threads=num_threads, kernels=ops.backend_name(), blocks=num_blocks, seconds=seconds)
        return Capacity(
            num_blocks=num_blocks,
            block_bytes=layout.block_bytes,
            weights_bytes=model.weights_nbytes,
            load_seconds=seconds,
            phases=phases.seconds,
        )

    @property
    def kv_blocks(self) -> HostBlocks:
        """See `Worker.kv_blocks`."""
        assert self._kv_cache is not None, "kv_blocks before start"
        return HostBlocks(self._kv_cache.view(torch.uint8).flatten(1).numpy())

    def submit(self, plan: StepPlan) -> DoneStep:
        """See `Worker.submit`."""
        assert self._runner is not None, "submit before start"
        return DoneStep(self._runner.execute(plan))

    def capture_next(self) -> bool:
        """See `Worker.capture_next`; there is nothing."""
        return False


def check_settings(config: EngineConfig) -> None:
    """Raise `ConfigError` for what the CPU cannot do.

    Rows that must not depend on the batch need the compiled kernels, which never let them; torch's make no promise.
    """
    if config.compute.deterministic and not ops.is_compiled():
        raise ConfigError("deterministic", "needs the compiled CPU kernels: install a C++ compiler, then `make setup`")
    if config.cache.kv_cache_dtype == "fp8":
        raise ConfigError("kv_cache_dtype", "fp8 is for GPUs; use bfloat16 on the CPU")


def set_threads(config: ComputeConfig) -> int:
    """Give the kernels the threads of the configuration, of `OMP_NUM_THREADS`, or one per usable core; returns them.

    torch gets one: what is left to it is small, and its idle threads would spin against the kernels'.
    """
    count = config.threads or envs.cpu_threads() or num_cores()
    ops.set_num_threads(count)
    torch.set_num_threads(1)
    return count
