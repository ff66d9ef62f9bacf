"""The whole worker over a device that a thread plays: the tokens of the CPU's worker, and how it starts and fails."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from penstock.config import CacheConfig, ComputeConfig, EngineConfig, ModelConfig
from penstock.errors import ConfigError, DeviceError, DeviceFault, OutOfMemory
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.worker import CpuWorker
from penstock.worker.executor import InlineExecutor, ProcessExecutor
from penstock.worker.gpu.memory import Probe
from penstock.worker.gpu.worker import Gpu
from penstock.worker.phases import Phases
from support.gpu_worker_process import POISON, SAID
from support.gpu_workers import LENGTHS, TOTAL_BYTES, build_gpu_worker, generate, gpu_config, play_gpu
from support.loud_models import save_loud_model
from support.runs import Run
from support.serving import environment
from support.thread_stream import InlineStream, ThreadStream
from support.tiny_models import save_tiny_model
from support.tiny_worker import BLOCK_BYTES, NUM_BLOCKS, TinyWorker

NewStream = Callable[..., ThreadStream]
CPU = ComputeConfig(device="cpu")
HAS_GPU = torch.cuda.is_available()
played = pytest.mark.skipif(HAS_GPU, reason="a GPU cannot be told to fail, or how much memory it has")
WITH_LOGPROBS = SamplingParams(temperature=0.0, logprobs=2)


@pytest.fixture(scope="module")
def expected(tiny: TinyWorker) -> dict[int, list[int]]:
    """What the CPU's worker says."""
    outputs = generate(InlineExecutor(tiny.config, tiny.folder, build_cpu_worker), gpu_config(tiny))
    assert [len(tokens) for tokens in outputs.values()] == list(LENGTHS)
    return outputs


def build_cpu_worker(config: EngineConfig, folder: Path) -> CpuWorker:
    return CpuWorker(config, folder, Phases())


def executor_of(tiny: TinyWorker, config: EngineConfig, stream: ThreadStream | InlineStream) -> InlineExecutor:
    open_device = partial(play_gpu, lambda: stream)
    return InlineExecutor(config, tiny.folder, partial(build_gpu_worker, open_device=open_device))


@pytest.mark.parametrize(("overlap", "optimize"), [(False, 0), (True, 1)])
def test_the_tokens_are_those_of_the_cpu(
    tiny: TinyWorker, expected: dict[int, list[int]], new_stream: NewStream, overlap: bool, optimize: int
):
    config = gpu_config(tiny, overlap=overlap, optimize=optimize)
    stream = new_stream(seed=3)
    executor = executor_of(tiny, config, stream)
    assert generate(executor, config) == expected
    assert executor.depth == 1 + overlap
    assert HAS_GPU or (stream.num_replayed > 0) == (optimize > 0)


def test_scales_of_a_float8_cache_are_in_the_graphs(tiny: TinyWorker, new_stream: NewStream, tmp_path: Path):
    save_tiny_model(tmp_path / "quiet", num_hidden_layers=1)
    quiet, loud = (dataclasses.replace(tiny, folder=tmp_path / name) for name in ("quiet", "loud"))
    save_loud_model(quiet.folder, loud.folder, has_scales=True)
    eager = gpu_config(tiny, overlap=False, kv_cache_dtype="fp8")
    graphs = gpu_config(tiny, optimize=1, kv_cache_dtype="fp8")
    expected = generate(executor_of(quiet, eager, new_stream()), eager)
    assert generate(executor_of(loud, graphs, new_stream(seed=3)), graphs) == expected


@played
def test_a_process_answers_alike_and_ends_with_the_exit_code_of_its_fault(
    tiny: TinyWorker, expected: dict[int, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    config = gpu_config(tiny)
    with closing(
        ProcessExecutor(config, tiny.folder, tmp_path, worker_module="support.gpu_worker_process")
    ) as executor:
        assert generate(executor, config) == expected
        assert executor.depth == 2
        run = Run(executor, NUM_BLOCKS, depth=2)
        run.add(0, [POISON, 1, 2])
        with pytest.raises(
            DeviceError, match=r"a kernel touched memory .* \(worker 0 left with exit code 81\)$"
        ) as ended:
            run.generate(4, [0])
        assert ended.value.fault is DeviceFault.BAD_ACCESS
        assert ended.value.exit_code == 81


@played
def test_a_start_counts_its_phases_and_the_devices_memory(tiny: TinyWorker):
    config = gpu_config(tiny, kv_cache_memory=None, gpu_memory_utilization=0.5)
    readings = iter([900 << 20, 800 << 20])  # before anything is taken, and before the KV cache is
    last = 100 << 20

    def probe() -> Probe:
        return Probe(free=next(readings, last), total=1 << 30)

    worker = build_gpu_worker(config, tiny.folder, partial(play_gpu, InlineStream, probe))
    capacity = worker.start()
    assert set(capacity.phases) == {"device", "weights", "memory", "warm_up", "graphs"}
    assert capacity.load_seconds == pytest.approx(sum(capacity.phases.values()))
    memory = capacity.memory
    assert memory["others"] == (1 << 30) - (900 << 20)
    assert memory["weights"] == pytest.approx(capacity.weights_bytes, rel=0.1)
    assert memory["kv_cache"] == capacity.num_blocks * BLOCK_BYTES
    assert capacity.headroom_bytes == (1 << 30) - sum(memory.values())
    assert not capacity.memory["graphs"]
    assert not worker.capture_next()


@played
@pytest.mark.parametrize(
    ("said", "fault"),
    [(SAID, DeviceFault.BAD_ACCESS), ("CUDA error: uncorrectable ECC error encountered", DeviceFault.HARDWARE)],
)
def test_a_device_that_fails_is_noticed_where_its_step_is_waited_for(
    tiny: TinyWorker, new_stream: NewStream, said: str, fault: DeviceFault
):
    stream = new_stream()
    executor = executor_of(tiny, gpu_config(tiny), stream)
    executor.start()
    run = Run(executor, NUM_BLOCKS, depth=2)
    run.add(0, [1, 2, 3])
    run.step({0: 3})
    stream.enqueue(partial(fail, said))
    with pytest.raises(DeviceError, match=said) as caught:
        run.generate(4, [0])
    assert caught.value.fault is fault
    assert len(run.results) >= 1, "what was done before is not lost"


@played
def test_a_device_that_has_no_memory_left_when_it_starts_is_one_line(tiny: TinyWorker):
    def open_device() -> Gpu:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.\nmore\nlines")

    worker = build_gpu_worker(gpu_config(tiny), tiny.folder, open_device)
    with pytest.raises(OutOfMemory, match=r"^too little GPU memory while starting: .* 512.00 MiB.; lower --gpu-memory"):
        worker.start()


@played
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tiny: TinyWorker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("penstock.worker.gpu.worker.load_model", None)
    open_device = partial(play_gpu, InlineStream, lambda: Probe(free=8 << 20, total=1 << 30))
    worker = build_gpu_worker(gpu_config(tiny, kv_cache_memory=None), tiny.folder, open_device)
    with pytest.raises(OutOfMemory, match=r"^too little GPU memory: .*; end what else runs on this GPU$"):
        worker.start()


@played
def test_graphs_are_captured_one_by_one_until_all_are_there_or_memory_is_short(
    tiny: TinyWorker, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    free = [TOTAL_BYTES]
    readings = iter([Probe(free=TOTAL_BYTES, total=TOTAL_BYTES)] * 2)  # by a start alone: they wait for the device
    gpu = dataclasses.replace(play_gpu(InlineStream), probe=lambda: next(readings), free_bytes=lambda: free[0])
    worker = build_gpu_worker(gpu_config(tiny, optimize=1), tiny.folder, lambda: gpu)
    worker.start()
    assert worker.capture_next()
    free[0] = 1 << 20
    assert not worker.capture_next()
    free[0] = TOTAL_BYTES
    assert not worker.capture_next(), "once it has stopped it does not begin again"
    assert [message.split()[0] for message in caplog.messages if message.startswith("graphs.")] == ["graphs.stopped"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ModelConfig(quantization="int4")}, "^--quantization: int4"),
        ({"cache": CacheConfig(kv_cache_dtype="fp8"), "compute": CPU}, "^--kv-cache-dtype: fp8 is for GPUs"),
    ],
)
def test_settings_of_the_other_device_are_refused(tiny: TinyWorker, changes: dict[str, object], message: str):
    config = dataclasses.replace(gpu_config(tiny), **changes)
    build = build_cpu_worker if config.compute == CPU else build_gpu_worker
    with pytest.raises(ConfigError, match=message):
        build(config, tiny.folder).start()


def fail(said: str) -> None:
    raise RuntimeError(said)


def test_a_deterministic_row_has_the_same_bits_whatever_is_beside_it(tiny: TinyWorker, new_stream: NewStream):
    config = gpu_config(tiny)
    config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, deterministic=True))
    executor = executor_of(tiny, config, new_stream())
    executor.start()
    run = Run(executor, NUM_BLOCKS)

    def logprobs_beside(others: int) -> list[bytes]:
        """Those of the last row, for a prompt and one token more."""
        for row in range(others):
            run.add(row, range(40 + row, 43 + 2 * row))
        run.add(others, range(10, 26), WITH_LOGPROBS)
        rows, before = range(others + 1), len(run.results)
        run.step({row: run.num_planned[row] for row in rows})
        run.step(dict.fromkeys(rows, 1))
        for row in rows:
            run.free(row)
        return [result.logprobs.sampled.tobytes() + result.logprobs.top.tobytes() for result in run.results[before:]]

    assert logprobs_beside(0) == logprobs_beside(2)
