"""A whole model follows a chain of needles through a long context, with keys and values in float32 and in float8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from penstock.attention import triton
from penstock.config import EngineConfig
from penstock.layers.between import dense
from penstock.layers.workspace import StepLimits
from penstock.models.blocks import CausalLM
from penstock.worker.gpu.graphs import GraphSizes
from penstock.worker.gpu.runner import GpuRunner
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.worker import build_kv_cache
from penstock.worker.kv_memory import KVLayout
from penstock_kernels.gpu.attention_schedule import TileShape
from penstock_kernels.gpu.kv_layout import quantised
from penstock_kernels.gpu.rope_kv_write import rotate
from support.chain_model import LINKS, chain, chain_prompt, save_chain_model
from support.gpu_models import DEVICE, FLOAT8_CACHE, FLOAT32, load_gpu_model
from support.runs import Run

LENGTH, BLOCK_SIZE = 8192, 16
COMPUTED = (
    LENGTH - 6 * BLOCK_SIZE
)  # tokens that a prefix cache brings: the interpreter takes 14 ms for each of the others
PLACES = (LENGTH // 2, LENGTH - 2, 0, LENGTH - 60, LENGTH // 4, LENGTH * 3 // 4)
LIMITS = StepLimits(max_tokens=40, max_requests=2)  # the chunks of what is left
NUM_BLOCKS = -(-(LENGTH + LINKS) // BLOCK_SIZE) + 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    save_chain_model(folder, LENGTH)
    return folder


@pytest.fixture(autouse=True)
def large_tiles_and_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter a tile costs what it costs, whatever its size; few programs have long sums."""

    def tile_for(*, is_decode: bool, **_: object) -> TileShape:
        return TileShape(tokens=1 if is_decode else 64, keys=128)

    if DEVICE.type == "cpu":
        monkeypatch.setattr(triton, "tile_for", tile_for)
        monkeypatch.setattr(triton, "INTERPRETED_PROGRAMS", 2)


@pytest.mark.parametrize("config", [FLOAT32, FLOAT8_CACHE], ids=["float32", "float8"])
def test_finds_needle_after_needle_in_a_long_context_and_then_what_most_of_it_says(
    folder: Path, new_stream, config: EngineConfig
):
    stream, prompt = new_stream(seed=1), chain_prompt(LENGTH, PLACES)
    model = load_gpu_model(folder, config=config, limits=LIMITS)
    cache = build_kv_cache(KVLayout.of(model.spec, config), NUM_BLOCKS, DEVICE)
    table = DeviceTable(LIMITS.max_requests, LENGTH + LINKS, BLOCK_SIZE, stream)
    run = Run(GpuRunner(model, cache, table, stream, sizes=GraphSizes()), NUM_BLOCKS, BLOCK_SIZE, depth=2)
    run.add(0, prompt, num_computed=COMPUTED)
    fill_cache(model, cache, run.blocks[0], prompt[:COMPUTED])
    run.generate(LINKS, [0], chunk=LIMITS.max_tokens)
    assert run.outputs[0] == chain()


def fill_cache(model: CausalLM, cache: torch.Tensor, blocks: list[int], tokens: list[int]) -> None:
    """Write what the model's one layer, whose norm changes nothing, makes of a prompt's beginning."""
    position = torch.arange(len(tokens), device=DEVICE)
    embedding, qkv = dense(model.embedding.packed).values, dense(model.layers[0].qkv.packed).values
    _, key, value = (embedding[torch.tensor(tokens, device=DEVICE)] @ qkv.T).unflatten(1, (3, -1)).unbind(1)
    key = rotate(key[:, None], *model.cos_sin[position].chunk(2, dim=1))[:, 0]
    block = torch.tensor(blocks, device=DEVICE)[position // BLOCK_SIZE]
    for plane, content in enumerate((key, value)):
        cache[block, 0, 0, plane, position % BLOCK_SIZE] = quantised(content, 1.0, cache.dtype)
