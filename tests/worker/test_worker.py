"""Choices that a worker makes before it loads."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from penstock.config import ComputeConfig, EngineConfig, ModelConfig
from penstock.errors import ConfigError, ModelError
from penstock.worker.cpu.worker import set_threads
from penstock.worker.executor import InlineExecutor
from support.tiny_worker import TinyWorker


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EngineConfig(model=ModelConfig(max_model_len=10**6)), "^--max-model-len: 1,000,000 .* 256 tokens$"),
        (EngineConfig(compute=ComputeConfig(device="cuda")), "^--device: cuda .*use --device cpu$"),
    ],
)
def test_wrong_settings_are_named(tiny: TinyWorker, config: EngineConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        InlineExecutor(config, tiny.folder).start()


def test_a_folder_without_a_model_is_a_model_error(tiny: TinyWorker):
    with pytest.raises(ModelError):
        InlineExecutor(tiny.config, tiny.folder / "nothing").start()


@pytest.mark.parametrize("max_model_len", [1, 2, 16, 17])
def test_the_shortest_contexts_start_too(tiny: TinyWorker, max_model_len: int):
    config = dataclasses.replace(tiny.config, model=ModelConfig(max_model_len=max_model_len, dtype="float32"))
    assert InlineExecutor(config, tiny.folder).start().num_blocks == -(-max_model_len // 16) * 8 + 1


def test_threads_come_from_the_flag_then_the_environment_then_the_machine(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert set_threads(ComputeConfig(threads=1)) == 1
        assert set_threads(ComputeConfig()) == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert 1 <= set_threads(ComputeConfig()) <= len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)
