"""A GPU's worker over a tiny model: on a GPU where there is one, else on a thread that plays it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from penstock.config import CacheConfig, ComputeConfig, EngineConfig, SchedulerConfig
from penstock.core.kv.block_hash import hash_blocks
from penstock.core.request import Request
from penstock.engine.core import EngineCore
from penstock.sampling.params import SamplingParams
from penstock.worker.executor import Executor
from penstock.worker.gpu.memory import Probe
from penstock.worker.gpu.stream import Stream
from penstock.worker.gpu.worker import Gpu, GpuWorker, open_gpu
from penstock.worker.phases import Phases
from support.engines import Bench, build_request
from support.fake_device import FakeDevice
from support.thread_stream import InlineStream, ThreadStream
from support.tiny_worker import BLOCK_BYTES, NUM_BLOCKS, TinyWorker

TOTAL_BYTES = 16 << 30
PROMPTS = ([7, 8, 9], list(range(20, 48)), list(range(20, 40)), [300])  # the third begins as the second
LENGTHS = (5, 3, 4, 2)


def gpu_config(tiny: TinyWorker, *, overlap: bool = True, optimize: int = 0, **cache: object) -> EngineConfig:
    """The tiny model's configuration for steps of at most 24 tokens and 4 requests."""
    return dataclasses.replace(
        tiny.config,
        cache=CacheConfig(**{"kv_cache_memory": NUM_BLOCKS * BLOCK_BYTES, **cache}),
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=24, target_itl_ms=0),
        compute=ComputeConfig(device="cuda", overlap=overlap, optimize=optimize),
    )


def play_gpu(
    new_stream: Callable[[], Stream] = ThreadStream,
    probe: Callable[[], Probe] | None = None,
    copies: Stream | None = None,
) -> Gpu:
    """The GPU, or one that streams play."""
    if torch.cuda.is_available():
        return open_gpu()
    probe = probe or (lambda: Probe(free=TOTAL_BYTES, total=TOTAL_BYTES))
    return Gpu(stream=new_stream(), copies=copies or InlineStream(), probe=probe, free_bytes=lambda: probe().free)


def build_gpu_worker(
    config: EngineConfig, folder: Path, open_device: Callable[[], Gpu] = play_gpu, phases: Phases | None = None
) -> GpuWorker:
    """A worker that has not started."""
    return GpuWorker(config, folder, phases or Phases(), open_device)


def generate(executor: Executor, config: EngineConfig, sampling: SamplingParams | None = None) -> dict[int, list[int]]:
    """What the engine over a started executor makes of `PROMPTS`, two of them added while others run."""
    capacity = executor.start()
    core = EngineCore(config, executor, capacity, 256)
    bench = Bench(FakeDevice(NUM_BLOCKS, config.cache.block_size), core)
    for handle, (prompt, count) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        if handle == 2:
            for _ in range(3):
                bench.step()
        bench.outputs[handle] = []
        core.add(request_of(handle, prompt, count, config.cache.block_size, sampling))
    bench.run()
    bench.check()
    return bench.outputs


def request_of(
    handle: int, prompt: Sequence[int], count: int, block_size: int, sampling: SamplingParams | None
) -> Request:
    """One that ends after `count` tokens."""
    request = build_request(handle, list(prompt), count)
    hashes = b"".join(hash_blocks(request.root_hash, np.array(prompt, dtype=np.int32), block_size))
    wanted = msgspec.structs.replace(sampling, max_tokens=count) if sampling else request.sampling
    return msgspec.structs.replace(request, block_hashes=hashes, stop_ids=(), sampling=wanted)
