"""How large the KV cache becomes."""

from __future__ import annotations

import pytest
import torch

from penstock.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from penstock.errors import OutOfMemory
from penstock.worker.kv_memory import DEFAULT_BYTES, KVLayout, allocate_kv_cache, choose_num_blocks

LAYOUT = KVLayout(num_kv_heads=3, num_layers=30, block_size=16, head_dim=64, dtype=torch.bfloat16)
GIB = 1 << 30


def config_of(*, memory: int | None = None, length: int | None = None, rows: int = 256) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(max_model_len=length),
        cache=CacheConfig(kv_cache_memory=memory),
        scheduler=SchedulerConfig(max_num_seqs=rows),
    )


def num_blocks(config: EngineConfig, *, length: int = 8192, available: int = 64 * GIB) -> int:
    return choose_num_blocks(LAYOUT, config, config.model.max_model_len or length, available)


def test_a_block_holds_all_layers():
    assert LAYOUT.block_bytes == 3 * 30 * 2 * 16 * 64 * 2


def test_the_default_is_a_share_of_the_free_memory_up_to_a_limit():
    assert num_blocks(config_of()) == DEFAULT_BYTES // LAYOUT.block_bytes
    assert num_blocks(config_of(), available=4 * GIB) == GIB // LAYOUT.block_bytes


def test_no_more_than_all_rows_at_full_length_can_use():
    assert num_blocks(config_of(rows=2, length=100)) == 2 * 7 + 1
    assert num_blocks(config_of(rows=2, length=100, memory=GIB)) == 2 * 7 + 1


def test_one_request_of_full_length_fits_even_if_that_is_a_larger_share():
    assert num_blocks(config_of(), available=GIB // 2) == 512 + 1


def test_a_cache_shorter_than_the_context_will_do_unless_the_length_was_asked_for():
    assert num_blocks(config_of(), available=100 << 20) == (80 << 20) // LAYOUT.block_bytes
    with pytest.raises(OutOfMemory, match="more free memory or --max-model-len 3616"):
        num_blocks(config_of(length=8192), available=100 << 20)
    with pytest.raises(OutOfMemory, match=r"--kv-cache-memory 181MiB or --max-model-len 2848$"):
        num_blocks(config_of(length=8192, memory=63 << 20))


def test_less_than_a_block_is_refused():
    with pytest.raises(OutOfMemory, match=r"--kv-cache-memory 1MiB$"):
        num_blocks(config_of(memory=1000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_memory_is_zero_and_taken_only_when_written(dtype: torch.dtype):
    layout = KVLayout(num_kv_heads=2, num_layers=4, block_size=16, head_dim=64, dtype=dtype)
    count = (8 << 30) // layout.block_bytes
    before = resident_bytes()
    cache = allocate_kv_cache(layout, count)
    assert cache.shape == (count, 2, 4, 2, 16, 64)
    assert cache.dtype == dtype
    assert cache.is_contiguous()
    cache[[0, count - 1]] = 1
    assert cache[count // 2].abs().sum() == 0
    assert resident_bytes() - before < 64 << 20


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
