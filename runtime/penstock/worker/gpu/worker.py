"""A rank on a GPU. All that happens on the device goes through one stream, so tests play the device."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from penstock.attention.choose import choose_backend
from penstock.config import EngineConfig
from penstock.core.plan import StepPlan, StepResult
from penstock.errors import DeviceError, DeviceFault, OutOfMemory
from penstock.layers.workspace import Workspace
from penstock.logs import event
from penstock.models.registry import load_model, run_on_gpu
from penstock.worker.capacity import Capacity
from penstock.worker.gpu.device_blocks import DeviceBlocks
from penstock.worker.gpu.faults import device_faults
from penstock.worker.gpu.memory import MemoryPlan, Probe, fixed_plan, with_kv_cache, with_overhead
from penstock.worker.gpu.runner import GpuRunner
from penstock.worker.gpu.settings import check_gpu_settings
from penstock.worker.gpu.shape import Shape
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.stream import CudaStream, Stream
from penstock.worker.kv_memory import KVLayout
from penstock.worker.phases import Phases
from penstock.worker.step import StepHandle
from penstock.worker.warm_up import warm_up_plans
from penstock_kernels.gpu.ops import GpuOps

LEAST_FREE_BYTES = 128 << 20  # of the GPU, below which no more graphs are captured

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A device as a worker has it."""

    stream: Stream
    copies: Stream  # of KV blocks outside the steps, which wait for none and hold none up
    probe: Callable[[], Probe]  # its memory, once everything that was begun is done
    free_bytes: Callable[[], int]  # of its memory, as the driver has it now: waits for nothing

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        return self.stream.device


class GpuWorker:
    """See `Worker`: a step runs on the device after `submit` has returned."""

    def __init__(self, config: EngineConfig, folder: Path, phases: Phases, open_gpu: Callable[[], Gpu]) -> None:
        self._config, self._folder, self._phases, self._open = config, folder, phases, open_gpu
        self._runner: GpuRunner | None = None
        self._gpu: Gpu | None = None
        self._kv_cache: torch.Tensor | None = None
        self._has_stopped = False  # capturing graphs, for want of memory

    def start(self) -> Capacity:
        """See `Worker.start`. Raises `DeviceError` too."""
        check_gpu_settings(self._config)
        shape = Shape.of(self._folder, self._config)
        try:
            with device_faults():
                return self._start(shape)
        except DeviceError as error:
            if error.fault is not DeviceFault.OUT_OF_MEMORY:
                raise
            raise OutOfMemory(
                f"too little GPU memory while starting: {error.detail}; lower --gpu-memory-utilization, "
                "or end what else runs on this GPU"
            ) from error

    @property
    def kv_blocks(self) -> DeviceBlocks:
        """See `Worker.kv_blocks`."""
        assert self._gpu is not None, "kv_blocks before start"
        assert self._kv_cache is not None, "kv_blocks before start"
        return DeviceBlocks(self._kv_cache, self._gpu.copies)

    def submit(self, plan: StepPlan) -> StepHandle:
        """See `Worker.submit`. Raises `DeviceError`, as waiting for the step does."""
        assert self._runner is not None, "submit before start"
        with device_faults():
            return GuardedStep(self._runner.submit(plan))

    def capture_next(self) -> bool:
        """See `Worker.capture_next`: a graph."""
        assert self._runner is not None, "capture before start"
        assert self._gpu is not None, "capture before start"
        graphs = self._runner.graphs
        if not graphs.num_pending or self._has_stopped:
            return False
        with device_faults():
            if (free := self._gpu.free_bytes()) < LEAST_FREE_BYTES:
                self._has_stopped = True
                event(_log, "graphs.stopped", level=logging.WARNING, free=free, left=graphs.num_pending)
                return False
            graphs.capture_next()
        if not graphs.num_pending:
            event(_log, "graphs.ready", decode=len(graphs.sizes.decode), mixed=len(graphs.sizes.mixed))
        return True

    def _start(self, shape: Shape) -> Capacity:
        config, phases, begin = self._config, self._phases, self._phases.total
        with phases.measure("device"):
            gpu = self._gpu = self._open()
            before = gpu.probe()
            attention = choose_backend(config.compute.attention_backend, shape.attention_needs(gpu.device, config))
        graphs = shape.graph_sizes(config, has_decode=attention.is_capturable)
        needs = {**shape.needs(config, graphs), "attention": attention.num_bytes}
        with_kv_cache(fixed_plan(needs, before), shape.layout, config, shape.max_model_len)  # refuses early
        with phases.measure("weights"):
            ops = GpuOps(gpu.device, shape.dtype, is_deterministic=config.compute.deterministic)
            model = load_model(self._folder, shape.spec, config, gpu.device, ops=ops)
            needs["weights"] = model.weights_nbytes + model.cos_sin.nbytes
        with phases.measure("memory"):
            workspace = Workspace(shape.spec, shape.limits, shape.dtype, gpu.device)
            compiled = run_on_gpu(model, workspace, attention, is_compiled=config.compute.optimize == 2)
            table = DeviceTable(shape.limits.max_requests, shape.max_model_len, shape.layout.block_size, gpu.stream)
            taken = before.free - gpu.probe().free + shape.compiled_bytes(config, graphs)  # the latter is, later
            plan = with_overhead(fixed_plan(needs, before), taken)
            plan = with_kv_cache(plan, shape.layout, config, shape.max_model_len)
            self._kv_cache = build_kv_cache(shape.layout, plan.num_blocks, gpu.device)
            self._runner = GpuRunner(model, self._kv_cache, table, gpu.stream, sizes=graphs)
        if compiled is not None:
            with phases.measure("compile"):
                gpu.stream.enqueue(compiled.compile)
                gpu.stream.record().wait()
        with phases.measure("warm_up"):
            self._warm_up(shape, plan)
        with phases.measure("graphs"):
            self._runner.graphs.capture_largest()
        gc.collect()
        gc.freeze()  # what was loaded lives as long as the process: never look at it again
        event(_log, "worker.memory", **plan.to_fields())
        seconds = phases.total - begin
        phases.tell()
        event(_log, "worker.ready", attention=attention.name, blocks=plan.num_blocks, seconds=seconds)
        return Capacity(
            num_blocks=plan.num_blocks,
            block_bytes=shape.layout.block_bytes,
            weights_bytes=model.weights_nbytes,
            load_seconds=seconds,
            depth=2 if config.compute.overlap else 1,
            phases=phases.seconds,
            memory=dict(plan.parts),
            headroom_bytes=plan.headroom,
        )

    def _warm_up(self, shape: Shape, plan: MemoryPlan) -> None:
        room = min(shape.max_model_len - 1, (plan.num_blocks - 1) * shape.layout.block_size, shape.limits.max_tokens)
        for step in warm_up_plans(shape.layout, room):
            self.submit(step).wait()


class GuardedStep:
    """A step whose device may fail until it has been waited for."""

    def __init__(self, step: StepHandle) -> None:
        self._step = step

    def wait(self) -> StepResult:
        """See `StepHandle.wait`. Raises `DeviceError`."""
        with device_faults():
            return self._step.wait()


def build_kv_cache(layout: KVLayout, num_blocks: int, device: torch.device) -> torch.Tensor:
    """All zeros: what lies in a block that a row has not filled yet is read, and weighted with 0."""
    shape = (num_blocks, layout.num_kv_heads, layout.num_layers, 2, layout.block_size, layout.head_dim)
    return torch.zeros(shape, dtype=layout.dtype, device=device)


def build_gpu_worker(config: EngineConfig, folder: Path, phases: Phases) -> GpuWorker:
    """A worker on the first GPU that CUDA shows this process."""
    return GpuWorker(config, folder, phases, open_gpu)


def open_gpu() -> Gpu:
    """Make CUDA ready for this process, which takes a second and some hundred MB of the GPU's memory."""
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)

    def probe() -> Probe:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return Probe(free=free, total=total)

    return Gpu(
        stream=CudaStream(device),
        copies=CudaStream(device),
        probe=probe,
        free_bytes=lambda: torch.cuda.mem_get_info(device)[0],
    )
