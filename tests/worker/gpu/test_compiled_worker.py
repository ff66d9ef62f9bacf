"""`--optimize 2`: one compiled function for all layers and sizes, the CPU's tokens, and memory that was counted."""

from __future__ import annotations

import os
import shutil
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.attention.torch import TorchAttention
from penstock.errors import ConfigError
from penstock.layers.compiled import Compiled, intermediate_bytes
from penstock.layers.workspace import StepLimits, Workspace
from penstock.models.blocks import CausalLM
from penstock.models.registry import load_model, run_on_gpu
from penstock.models.spec import ModelSpec
from penstock.worker.capacity import Capacity
from penstock.worker.executor import InlineExecutor
from penstock.worker.gpu.graphs import GraphSizes
from penstock.worker.gpu.memory import LIBRARY_BYTES, Probe
from penstock.worker.gpu.runner import GpuRunner
from penstock.worker.gpu.shape import Shape
from penstock.worker.gpu.state_table import DeviceTable
from penstock_kernels.gpu.matvec import MOST_ROWS
from penstock_kernels.gpu.ops import GpuOps
from support.gpu_models import attention_needs
from support.gpu_workers import TOTAL_BYTES, build_gpu_worker, generate, gpu_config, play_gpu
from support.paged_run import BLOCK_SIZE, PagedRun
from support.reference import reference_greedy
from support.runs import Run
from support.thread_stream import DEVICE, InlineStream, ThreadStream
from support.tiny_models import save_tiny_model
from support.tiny_worker import TinyWorker

NewStream = Callable[..., ThreadStream]
LIMITS = StepLimits(max_tokens=24, max_requests=4)  # as those of `gpu_config`: its worker compiles nothing anew
CAPTURED = 16  # tokens of the largest graph there
TAKEN = 10 << 20
HAS_GPU = DEVICE.type == "cuda"
played = pytest.mark.skipif(HAS_GPU, reason="a GPU has its own compiler, and memory that nobody can prescribe")


def missing_compiler() -> str | None:
    """What Inductor lacks to compile for the tests' device, if anything."""
    name = os.environ.get("CXX", "g++")
    if not HAS_GPU and shutil.which(name) is None:
        return f"there is no {name}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "there is no Python.h"
    return None


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working compiler that has nothing compiled yet, and tries no vector instructions."""
    if reason := missing_compiler():
        pytest.skip(f"nothing can be compiled: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
        import torch._inductor.compile_fx
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as changes, torch._inductor.config.patch({"cpp.vec_isa_ok": False}):
        changes.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


def load(tiny: TinyWorker) -> tuple[CausalLM, Compiled]:
    """The model, and what of it is not compiled yet."""
    spec = ModelSpec.from_folder(tiny.folder)
    model = load_model(tiny.folder, spec, tiny.config, DEVICE, ops=GpuOps(DEVICE, torch.float32))
    workspace = Workspace(spec, LIMITS, torch.float32, DEVICE)
    compiled = run_on_gpu(model, workspace, TorchAttention(attention_needs(spec, LIMITS)), is_compiled=True)
    assert compiled is not None
    return model, compiled


def num_compiled() -> int:
    """Functions that were compiled in this process."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def model(compiler: None, tiny: TinyWorker) -> CausalLM:
    """Compiled."""
    model, compiled = load(tiny)
    before = num_compiled()
    compiled.compile()
    assert num_compiled() == before + 1
    return model


def test_one_compiled_function_serves_all_layers_and_sizes(model: CausalLM, tiny: TinyWorker):
    plain, before = load(tiny)[0], num_compiled()
    for num_tokens in (MOST_ROWS, MOST_ROWS + 1, LIMITS.max_tokens):
        found, right = (one.forward(PagedRun(one).batch({0: list(range(num_tokens))})) for one in (model, plain))
        torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    assert num_compiled() == before


class Operations(TorchDispatchMode):
    """Names of what torch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_torch_computes_nothing_but_products_there(model: CausalLM):
    last = model.segments(PagedRun(model).batch({0: list(range(9))}))[-1]
    with Operations() as seen:
        last.run()
    counts = Counter(name.partition(".")[0] for name in seen.names)
    assert counts.pop("mm", 0) + counts.pop("addmm", 0) == 3
    assert counts.keys() <= {"slice", "view"}


@played
def test_takes_no_more_than_was_counted(model: CausalLM):
    last = model.segments(PagedRun(model).batch({0: list(range(LIMITS.max_tokens))}))[-1]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        last.run()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    counted = intermediate_bytes(model.spec, LIMITS.max_tokens, torch.float32)
    assert counted / 2 < peak <= counted


def test_counts_what_compiled_code_takes_in_steps_and_in_graphs(tiny: TinyWorker):
    kernels, compiled = (gpu_config(tiny, optimize=level) for level in (1, 2))
    shape, graphs = Shape.of(tiny.folder, compiled), GraphSizes(decode=(2, 4), mixed=(CAPTURED,))
    more = shape.needs(compiled, graphs)["workspace"] - shape.needs(kernels, graphs)["workspace"]
    assert more == sum(intermediate_bytes(shape.spec, count, torch.float32) for count in (LIMITS.max_tokens, CAPTURED))


def test_greedy_tokens_without_graphs_are_those_of_transformers(
    model: CausalLM, tiny: TinyWorker, new_stream: NewStream
):
    stream, spec, prompt, before = new_stream(seed=1), model.spec, list(range(40, 67)), num_compiled()
    cache = torch.zeros(20, spec.num_kv_heads, spec.num_layers, 2, BLOCK_SIZE, spec.head_dim, device=DEVICE)
    table = DeviceTable(LIMITS.max_requests, 64, BLOCK_SIZE, stream)
    run = Run(GpuRunner(model, cache, table, stream, sizes=GraphSizes()), 20, BLOCK_SIZE)
    run.add(0, prompt)
    run.generate(3, [0], chunk=LIMITS.max_tokens)
    assert run.outputs[0] == reference_greedy(tiny.reference, prompt, 3)
    assert num_compiled() == before


class KeepsCapacity(InlineExecutor):
    """With what its worker said of itself."""

    def start(self) -> Capacity:
        self.capacity = super().start()
        return self.capacity


def test_a_worker_compiles_at_its_start_and_then_gives_the_tokens_of_the_cpu(
    model: CausalLM, tiny: TinyWorker, new_stream: NewStream
):
    config, before, stream = gpu_config(tiny, optimize=2), num_compiled(), new_stream(seed=3)
    free = chain([TOTAL_BYTES], repeat(TOTAL_BYTES - TAKEN))
    open_device = partial(play_gpu, lambda: stream, lambda: Probe(free=next(free), total=TOTAL_BYTES))
    executor = KeepsCapacity(config, tiny.folder, partial(build_gpu_worker, open_device=open_device))
    right = InlineExecutor(tiny.config, tiny.folder)
    assert generate(executor, config) == generate(right, gpu_config(tiny))
    assert num_compiled() == before, "the shapes are those of `model`"
    assert HAS_GPU or stream.num_replayed > 0
    phases, memory = list(executor.capacity.phases), executor.capacity.memory
    assert phases[phases.index("memory") :] == ["memory", "compile", "warm_up", "graphs"]
    later = sum(intermediate_bytes(model.spec, count, torch.float32) for count in (LIMITS.max_tokens, CAPTURED))
    counted = sum(memory[name] for name in ("weights", "workspace", "attention", "state_table", "sampling"))
    assert HAS_GPU or memory["libraries"] == LIBRARY_BYTES + TAKEN - (counted - later), "it is not taken yet"


@played
def test_a_machine_that_cannot_compile_is_told_so_in_one_line_and_what_to_change(
    compiler: None, tiny: TinyWorker, tmp_path: Path
):
    save_tiny_model(tmp_path, hidden_size=32, num_hidden_layers=1)  # a shape that nothing was compiled for
    worker = build_gpu_worker(gpu_config(tiny, optimize=2), tmp_path, partial(play_gpu, InlineStream))
    line = r"^--optimize: 2 \(torch.compile\) does not work here \(InvalidCxx.*/no/such.*\); use --optimize 1$"
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("/no/such/compiler",)})
    with no_compiler, pytest.raises(ConfigError, match=line) as told:
        worker.start()
    assert "\n" not in str(told.value)
