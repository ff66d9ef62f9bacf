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

import psutil
import pytest
from support.runs import GREEDY, Run
from support.tiny_worker import NUM_BLOCKS, TinyWorker

from penstock.config import CacheConfig, ComputeConfig, EngineConfig, ModelConfig
from penstock.errors import ConfigError, ModelError, OutOfMemory
from penstock.sampling.params import SamplingParams
from penstock.worker.executor import InlineExecutor, ProcessExecutor, WorkerDied

SAMPLED = SamplingParams(temperature=1.0, seed=4, top_p=0.95, logprobs=2, prompt_logprobs=1, logit_bias={5: 1.0})


@pytest.fixture
def processes(tiny: TinyWorker, tmp_path: Path) -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(tiny.config, tiny.folder, tmp_path)
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
    [worker] = psutil.Process().children()
    return worker.pid


def test_a_process_answers_as_a_worker_in_this_process_does(processes: ProcessExecutor, inline: InlineExecutor):
    expected = generate(inline)
    for depth in (1, 2):
        found = generate(processes, depth)
        assert found.outputs == expected.outputs
        columns = [
            [(part.start, part.token.tolist()) for part in result.prompt_logprobs] for result in found.results
        ]
        assert columns == [
            [(part.start, part.token.tolist()) for part in result.prompt_logprobs] for result in expected.results
        ]


def test_the_worker_has_its_title(processes: ProcessExecutor):
    assert psutil.Process(worker_pid()).cmdline()[0].startswith("penstock:worker-0")


def test_the_worker_ignores_signals_that_are_its_parents_business(processes: ProcessExecutor):
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker_pid(), number)
    assert len(generate(processes).outputs[0]) == 15


def test_a_killed_worker_is_noticed_at_once(processes: ProcessExecutor):
    run = Run(processes, NUM_BLOCKS)
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


def test_close_ends_the_worker(tiny: TinyWorker, tmp_path: Path):
    executor = ProcessExecutor(tiny.config, tiny.folder, tmp_path)
    executor.start()
    worker = psutil.Process(worker_pid())
    executor.close()
    executor.close()
    assert not worker.is_running()


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (EngineConfig(), ModelError, ""),
        (EngineConfig(model=ModelConfig(max_model_len=10**6)), ConfigError, "--max-model-len: .*256"),
        (EngineConfig(compute=ComputeConfig(device="cuda")), ConfigError, "--device: .*--device cpu"),
        (
            EngineConfig(model=ModelConfig(max_model_len=200), cache=CacheConfig(kv_cache_memory=200_000)),
            OutOfMemory,
            "--kv-cache-memory 1MiB or --max-model-len 96",
        ),
    ],
)
def test_errors_while_loading_arrive_as_they_were_raised(
    tiny: TinyWorker, tmp_path: Path, config: EngineConfig, kind: type[Exception], message: str
):
    folder = tmp_path if kind is ModelError else tiny.folder
    raised = []
    for executor in (ProcessExecutor(config, folder, tmp_path), InlineExecutor(config, folder)):
        with pytest.raises(kind, match=message) as caught:
            executor.start()
        raised.append(str(caught.value))
        executor.close()
    assert raised[0] == raised[1]
    assert psutil.Process().children() == []


def test_the_worker_dies_with_its_parent(tiny: TinyWorker, tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; import msgspec; from penstock.config import EngineConfig;"
        "from penstock.worker.executor import ProcessExecutor;"
        f"config = msgspec.json.decode({encoded(tiny.config)!r}, type=EngineConfig);"
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


def encoded(config: EngineConfig) -> str:
    import msgspec

    return msgspec.json.encode(dataclasses.replace(config)).decode()
