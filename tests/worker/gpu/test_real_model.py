"""A whole model on a device that works later, judged by `transformers`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from penstock.models.blocks import CausalLM
from penstock.worker.gpu.graphs import GraphSizes
from penstock.worker.gpu.runner import GpuRunner
from penstock.worker.gpu.state_table import DeviceTable
from support.gpu_models import LIMITS, load_gpu_model
from support.reference import reference_greedy
from support.runs import Run
from support.thread_stream import DEVICE
from support.tiny_models import save_tiny_model
from support.tiny_worker import SMALL
from support.toy_runner import toy_prompt

BLOCK_SIZE, NUM_BLOCKS, COUNT = 16, 20, 4
GRAPHS = GraphSizes(decode=(4,), mixed=(16,))
PROMPTS = {row: toy_prompt(row, length, 300) for row, length in ((2, 21), (0, 3), (1, 7))}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.PreTrainedModel]:
    folder = tmp_path_factory.mktemp("tiny")
    return folder, save_tiny_model(folder, "Qwen3", **SMALL)


@pytest.fixture(scope="module")
def model(saved: tuple[Path, transformers.PreTrainedModel]) -> CausalLM:
    return load_gpu_model(saved[0])


@pytest.fixture(scope="module")
def greedy(saved: tuple[Path, transformers.PreTrainedModel]) -> dict[int, list[int]]:
    return {row: reference_greedy(saved[1], prompt, COUNT) for row, prompt in PROMPTS.items()}


@pytest.mark.parametrize(
    ("sizes", "depth", "chunk"),
    [(GraphSizes(), 1, 9), (GRAPHS, 2, 6)],
    ids=["eager", "graphs-overlap"],
)
def test_greedy_tokens_are_those_of_transformers(new_stream, model, greedy, sizes, depth, chunk):
    stream, spec = new_stream(seed=depth), model.spec
    shape = (NUM_BLOCKS, spec.num_kv_heads, spec.num_layers, 2, BLOCK_SIZE, spec.head_dim)
    cache = torch.zeros(shape, device=DEVICE)
    table = DeviceTable(LIMITS.max_requests, 64, BLOCK_SIZE, stream)
    runner = GpuRunner(model, cache, table, stream, sizes=sizes)
    while runner.graphs.capture_next():
        pass
    run = Run(runner, NUM_BLOCKS, BLOCK_SIZE, depth)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt)
    run.generate(COUNT, list(PROMPTS), chunk)
    assert run.outputs == greedy
