"""Real worker processes: the same answers as inline, clear errors, and no silence when one dies."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from penstock.config import CacheConfig, EngineConfig, ModelConfig, TransferConfig
from penstock.errors import ConfigError, DeviceError, DeviceFault, ModelError, OutOfMemory, PenstockError
from penstock.kv_transfer.messages import (
    Attached,
    Checksum,
    Checksums,
    Fetch,
    Fetched,
    Store,
    Stored,
    TransferInput,
    TransferLaunch,
    TransferOutput,
)
from penstock.sampling.params import SamplingParams
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel
from penstock.worker.executor import InlineExecutor, Loaded, LoadFailed, ProcessExecutor, WorkerDied, death_of
from support.runs import GREEDY, Run
from support.tiny_worker import BLOCK_BYTES, NUM_BLOCKS, TinyWorker

SAMPLED = SamplingParams(temperature=1.0, seed=4, top_p=0.95, logprobs=2, prompt_logprobs=1, logit_bias={5: 1.0})


@pytest.fixture(scope="module")
def processes(tiny: TinyWorker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessExecutor]:
    """A started worker for tests that leave it alive."""
    executor = ProcessExecutor(tiny.config, tiny.folder, tmp_path_factory.mktemp("run"))
    capacity = executor.start()
    assert capacity.num_blocks == NUM_BLOCKS
    assert capacity.weights_bytes > 0
    yield executor
    executor.close()


def generate(executor: InlineExecutor | ProcessExecutor, depth: int = 1) -> Run:
    run = Run(executor, NUM_BLOCKS, depth=depth)
    for row, sampling in enumerate([GREEDY, SAMPLED, GREEDY]):
        run.add(row, range(10 + row, 40 + 5 * row), sampling, stop_ids=(2,))
    run.generate(15, [0, 1, 2], chunk=8)
    return run


def worker_pid() -> int:
    """The worker that was started last."""
    return max(psutil.Process().children(), key=lambda child: child.create_time()).pid


def test_a_process_answers_as_a_worker_in_this_process_does(processes: ProcessExecutor, inline: InlineExecutor):
    expected = generate(inline)
    for depth in (1, 2):
        found = generate(processes, depth)
        assert found.outputs == expected.outputs
        columns = [[(part.start, part.token.tolist()) for part in result.prompt_logprobs] for result in found.results]
        assert columns == [
            [(part.start, part.token.tolist()) for part in result.prompt_logprobs] for result in expected.results
        ]


def test_the_worker_has_its_title(processes: ProcessExecutor):
    assert psutil.Process(worker_pid()).cmdline()[0].startswith("penstock:worker-0")


def test_the_worker_ignores_signals_that_are_its_parents_business(processes: ProcessExecutor):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker_pid(), number)
    assert len(generate(processes).outputs[0]) == 15


def test_a_killed_worker_is_noticed_at_once(tiny: TinyWorker, tmp_path: Path):
    executor = ProcessExecutor(tiny.config, tiny.folder, tmp_path)
    executor.start()
    run = Run(executor, NUM_BLOCKS)
    run.add(0, [1, 2, 3])
    run.generate(1, [0])
    os.kill(worker_pid(), signal.SIGSTOP)
    run.depth = 2
    run.step({0: 1})
    begin = time.monotonic()
    os.kill(worker_pid(), signal.SIGKILL)
    with pytest.raises(WorkerDied, match="worker 0 was killed by signal 9"):
        run.finish()
    with pytest.raises(WorkerDied):
        run.step({0: 1})
    assert time.monotonic() - begin < 2
    executor.close()


def test_the_transfer_thread_sees_the_blocks_that_steps_write(tiny: TinyWorker, tmp_path: Path):
    transfer = TransferConfig(kv_offload_memory=NUM_BLOCKS * BLOCK_BYTES)
    config = dataclasses.replace(tiny.config, transfer=transfer)
    launch = TransferLaunch(session="s", fingerprint="f", lease_file="")
    executor = ProcessExecutor(config, tiny.folder, tmp_path, launch)
    assert executor.start().block_bytes == BLOCK_BYTES
    assert executor.transfer is not None
    channel, answers = Channel(executor.transfer), decoder(TransferOutput)
    assert answers.decode(channel.receive()) == Attached(endpoint=None, stored=[])

    def ask(message: TransferInput) -> TransferOutput:
        channel.send(encode(message))
        return answers.decode(channel.receive())

    def checksums() -> list[int]:
        answer = ask(Checksum(call=1, blocks=np.arange(NUM_BLOCKS, dtype=np.int32)))
        assert isinstance(answer, Checksums)
        return answer.values

    before = checksums()
    run = Run(executor, NUM_BLOCKS)
    run.add(0, range(10, 58))
    run.generate(1, [0], chunk=48)
    after = checksums()
    [written] = [np.flatnonzero(np.array(before) != np.array(after)).tolist()]
    assert len(written) == 3  # blocks of 16 tokens
    names = [bytes([block] * 16) for block in written]
    assert ask(Store(call=2, blocks=np.array(written), hashes=names)) == Stored(call=2, stored=names, dropped=[])
    others = np.array([block for block in range(NUM_BLOCKS) if block not in written][-3:])
    answer = ask(Fetch(call=3, blocks=others, hashes=names))
    assert isinstance(answer, Fetched)
    assert answer.num_good == 3
    assert [checksums()[block] for block in others] == [after[block] for block in written]
    executor.close()


def test_close_ends_the_worker(tiny: TinyWorker, tmp_path: Path):
    executor = ProcessExecutor(tiny.config, tiny.folder, tmp_path)
    executor.start()
    worker = psutil.Process(worker_pid())
    executor.close()
    executor.close()
    assert not worker.is_running()


@pytest.mark.parametrize(
    "error",
    [
        ModelError("no weights"),
        OutOfMemory("too little"),
        ConfigError("max_model_len", "too long: 5"),
        DeviceError(DeviceFault.LOST, "CUDA error: unknown error"),
        PenstockError("?"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_while_loading_cross_the_border_unchanged(error: PenstockError):
    message = encode(LoadFailed.of(error))
    again = msgspec.msgpack.decode(message, type=Loaded | LoadFailed).to_error()
    assert (type(again), str(again)) == (type(error), str(error))
    for name in ("field", "fault", "exit_code"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_an_exit_code_tells_a_devices_fault_from_any_other_death():
    found = [death_of("worker 0", code) for code in (DeviceFault.HARDWARE.value, 1, -9)]
    assert [type(error) for error in found] == [DeviceError, WorkerDied, WorkerDied]
    assert "the GPU's hardware failed" in str(found[0])
    assert [str(error) for error in found[1:]] == [
        "worker 0 left with exit code 1",
        "worker 0 was killed by signal 9",
    ]


def test_a_worker_that_cannot_load_says_why_and_is_gone(tiny: TinyWorker, tmp_path: Path):
    cache = CacheConfig(kv_cache_memory=4 * BLOCK_BYTES)  # 8 blocks in bfloat16
    config = EngineConfig(model=ModelConfig(max_model_len=200), cache=cache)
    before = len(psutil.Process().children())
    executor = ProcessExecutor(config, tiny.folder, tmp_path)
    with pytest.raises(OutOfMemory, match=r"--kv-cache-memory 1MiB or --max-model-len 112$"):
        executor.start()
    assert len(psutil.Process().children()) == before


def test_the_worker_dies_with_its_parent(tiny: TinyWorker, tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; import msgspec; from penstock.config import EngineConfig;"
        "from penstock.worker.executor import ProcessExecutor;"
        f"config = msgspec.json.decode({msgspec.json.encode(tiny.config)!r}, type=EngineConfig);"
        f"executor = ProcessExecutor(config, Path({str(tiny.folder)!r}), Path({str(tmp_path)!r}));"
        "executor.start(); print('ready', 'torch' in sys.modules, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready False\n"  # and the parent has no torch
        [worker] = psutil.Process(parent.pid).children()
        os.kill(worker.pid, signal.SIGSTOP)  # so that it cannot notice the closed channel by itself
        parent.kill()
        assert psutil.wait_procs([worker], timeout=5)[1] == []
