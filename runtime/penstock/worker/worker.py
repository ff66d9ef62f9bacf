"""One rank: its device, its part of the model, its KV cache and the runner over them. Everything here may use torch."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from penstock import envs
from penstock.config import ComputeConfig, EngineConfig
from penstock.core.plan import NewRow, StepPlan, StepResult, no_ints
from penstock.errors import ConfigError
from penstock.logs import event
from penstock.models.registry import load_model
from penstock.models.spec import ModelSpec
from penstock.sampling.params import SamplingParams
from penstock.worker.executor import Capacity
from penstock.worker.kv_memory import KVLayout, allocate_kv_cache, choose_num_blocks
from penstock.worker.machine import available_memory, num_cores
from penstock.worker.model_runner import ModelRunner
from penstock.worker.state_table import StateTable
from penstock_kernels.cpu import ops

WARM_UP_TOKENS = 32

_log = logging.getLogger(__name__)


class Worker:
    """Loads on `start`, then runs one plan after the other."""

    def __init__(self, config: EngineConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._runner: ModelRunner | None = None
        self._kv_cache: torch.Tensor | None = None

    def start(self) -> Capacity:
        """Load the model, allocate the cache and run a first step. Raises ModelError, OutOfMemory or ConfigError."""
        begin = time.perf_counter()
        config = self._config
        device = choose_device(config.compute)
        check_deterministic(config.compute)
        num_threads = set_threads(config.compute)
        spec = ModelSpec.from_folder(self._folder)
        max_model_len = choose_max_model_len(config, spec)
        model = load_model(self._folder, spec, config, device)
        layout = KVLayout.of(spec, config)
        num_blocks = choose_num_blocks(layout, config, max_model_len, available_memory())
        table = StateTable(config.scheduler.max_num_seqs, max_model_len, layout.block_size)
        self._kv_cache = allocate_kv_cache(layout, num_blocks)
        self._runner = ModelRunner(model, self._kv_cache, table)
        self._warm_up(min(WARM_UP_TOKENS, max_model_len - 1, (num_blocks - 1) * layout.block_size), layout)
        gc.collect()
        gc.freeze()  # what was loaded lives as long as the process: never look at it again
        seconds = time.perf_counter() - begin
        event(_log, "worker.ready", threads=num_threads, kernels=ops.backend_name(), blocks=num_blocks, seconds=seconds)
        return Capacity(
            num_blocks=num_blocks,
            block_bytes=layout.block_bytes,
            weights_bytes=model.weights_nbytes,
            load_seconds=seconds,
        )

    @property
    def kv_blocks(self) -> NDArray[np.uint8]:
        """The KV cache as bytes, [num_blocks, block_bytes]: a block is one contiguous range."""
        assert self._kv_cache is not None, "kv_blocks before start"
        return self._kv_cache.view(torch.uint8).flatten(1).numpy()

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one step."""
        assert self._runner is not None, "execute before start"
        return self._runner.execute(plan)

    def _warm_up(self, num_tokens: int, layout: KVLayout) -> None:
        """Compute a prompt and, if there is room, one more token, so that the first request meets no cold path."""
        if num_tokens < 1:
            return
        new = NewRow(
            row=0,
            token_ids=np.zeros(num_tokens, dtype=np.int32),
            num_prompt=num_tokens,
            num_computed=0,
            block_ids=np.arange(1, layout.blocks_for(num_tokens) + 1, dtype=np.int32),
            sampling=SamplingParams(temperature=1.0, top_p=0.9, seed=0, logprobs=1),
            stop_ids=(),
        )
        self.execute(_plan_of(0, new_rows=(new,), num_tokens=num_tokens))
        if num_tokens % layout.block_size:
            self.execute(_plan_of(1, num_tokens=1))
        self.execute(_plan_of(2, freed=0))


def check_deterministic(compute: ComputeConfig) -> None:
    """Raise `ConfigError` if rows must not depend on the batch and only torch's kernels, which promise no such thing,
    are there. The compiled kernels never let them."""
    if compute.deterministic and not ops.is_compiled():
        raise ConfigError("deterministic", "needs the compiled CPU kernels: install a C++ compiler, then `make setup`")


def _plan_of(
    step: int, *, new_rows: tuple[NewRow, ...] = (), num_tokens: int = 0, freed: int | None = None
) -> StepPlan:
    """A plan for row 0 alone."""
    return StepPlan(
        step=step,
        freed_rows=no_ints() if freed is None else np.array([freed], dtype=np.int32),
        new_rows=new_rows,
        block_rows=no_ints(),
        block_ids=no_ints(),
        rows=np.zeros(1 if num_tokens else 0, dtype=np.int32),
        num_tokens=np.full(1 if num_tokens else 0, num_tokens, dtype=np.int32),
    )


def choose_device(config: ComputeConfig) -> torch.device:
    """The device that was asked for; `auto` is the CPU. Raises `ConfigError` for one that cannot compute here."""
    if config.device == "cuda":
        why = "its kernels are not in this version" if torch.cuda.is_available() else "there is no usable CUDA device"
        raise ConfigError("device", f"cuda was asked for, but {why}; use --device cpu")
    return torch.device("cpu")


def set_threads(config: ComputeConfig) -> int:
    """Give the kernels the threads of the configuration, of `OMP_NUM_THREADS`, or one per usable core; returns them.

    torch gets one: what is left to it is small, and its idle threads would spin against the kernels'.
    """
    count = config.threads or envs.cpu_threads() or num_cores()
    ops.set_num_threads(count)
    torch.set_num_threads(1)
    return count


def choose_max_model_len(config: EngineConfig, spec: ModelSpec) -> int:
    """Longest request in tokens. Raises `ConfigError` for more than the model's positions."""
    wanted = config.model.max_model_len
    if wanted is not None and wanted > spec.max_position:
        raise ConfigError(
            "max_model_len", f"{wanted:,} is more than the model's context of {spec.max_position:,} tokens"
        )
    return wanted or spec.max_position
