"""All kernels at the shapes of the models, each checked against its reference in the same run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from penstock.bench.gpu.attention_case import AttentionCase, build_case
from penstock.bench.gpu.attention_peers import ATTENTION_PEERS, Attend, NotComparable, NotInstalled
from penstock.bench.gpu.clock import Clock
from penstock.bench.gpu.figure import NOT_INSTALLED, WRONG, Figure, PeerFigure
from penstock.bench.gpu.op_case import Build, Maker, op_cases, registered_case
from penstock.bench.gpu.op_check import run_and_compare
from penstock.bench.gpu.shapes import (
    ATTENTION,
    LLAMA_8B,
    QWEN_06B,
    SKEWED,
    TINY,
    TINY_ATTENTION,
    ModelShape,
    Workload,
    decode,
    prefill,
)
from penstock_kernels.gpu import OPS
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.registry import Op

ATTENTION_OP = "paged_attention"
ALLOWED = 1e-2  # relative error of an op in bf16 against float32
PLAIN = "torch"  # the peer of ops other than attention
FIRST = 8  # attention shapes that come before all else
TINY_SCALE = 1024
SLOW_PEER = "FlexAttention"  # compiled for each shape, for many seconds
SLOW_PEER_SHAPES = frozenset({(LLAMA_8B.name, one.name) for one in (decode(64, 4096), SKEWED, prefill(8192))})
LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure, and with what."""

    clock: Clock
    device: torch.device
    dtype: torch.dtype
    models: tuple[ModelShape, ...]
    workloads: tuple[Workload, ...]
    scale: int  # divides the sizes of ops other than attention
    ops: tuple[Op, ...] = OPS
    peers: Mapping[str, Callable[[AttentionCase], Attend]] = field(default_factory=lambda: ATTENTION_PEERS)

    @classmethod
    def of(cls, clock: Clock, device: torch.device, *, is_smoke: bool, has_peers: bool = True) -> Plan:
        """Everything; with `is_smoke` tiny shapes that a CPU can interpret."""
        return cls(
            clock=clock,
            device=device,
            dtype=torch.float32 if is_smoke else torch.bfloat16,
            models=(TINY,) if is_smoke else (LLAMA_8B, QWEN_06B),
            workloads=TINY_ATTENTION if is_smoke else ATTENTION,
            scale=TINY_SCALE if is_smoke else 1,
            peers=ATTENTION_PEERS if has_peers else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of the table, not measured yet."""

    name: str
    run: Callable[[], Figure]


def tasks(plan: Plan) -> list[Task]:
    """All rows, the most telling first; every op of the plan has one."""
    first, rest, others = [], [], []
    ops = {op.name: op for op in plan.ops}
    make = Maker(device=plan.device, dtype=plan.dtype, generator=torch.Generator(plan.device).manual_seed(1))
    for model in plan.models:
        found = [
            Task(name=f"{model.name} {workload.name}", run=partial(attention_figure, plan, model, workload))
            for workload in plan.workloads
        ]
        first += found[:FIRST]
        rest += found[FIRST:]
        builds = [(name, build) for name, build in op_cases(model, make, scale=plan.scale) if name in ops]
        others += [
            Task(name=f"{model.name} {name}", run=partial(op_figure, plan, model.name, ops[name], build))
            for name, build in builds
        ]
    covered = {ATTENTION_OP, *(name for name, _ in builds)}
    unshaped = [op for op in plan.ops if op.name not in covered]
    others += [
        Task(name=op.name, run=partial(op_figure, plan, "", op, partial(registered_case, op, make))) for op in unshaped
    ]
    return [*first, *others, *rest]


def run_tasks(found: list[Task], deadline: float) -> Iterator[tuple[Task, Figure | None]]:
    """Each task with its figure; None for what `deadline` (of `time.monotonic`) left out."""
    for task in found:
        yield task, None if time.monotonic() > deadline else task.run()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def attention_figure(plan: Plan, model: ModelShape, workload: Workload) -> Figure:
    """One layer's attention of a step; the schedule, which is made once per step, is in the note."""
    figure = partial(
        Figure,
        op=ATTENTION_OP,
        model=model.name,
        shape=workload.name,
        num_bytes=workload.attention_bytes(model, plan.dtype.itemsize),
        operations=workload.attention_operations(model),
    )
    try:
        case = build_case(model, workload, dtype=plan.dtype, device=plan.device)
        prepare, attend = case.backend()
        case.out.fill_(float("nan"))
        prepare()
        attend()
        error = case.error_of(case.out)
        schedule, timing = plan.clock.measure(prepare), plan.clock.measure(attend)
        prepare()
    except Exception as failure:  # whatever a kernel stumbles over is no reason to lose the others' figures
        return figure(timing=None, error=float("nan"), allowed=0.0, note=reason(failure))
    note = f"and {schedule.median * 1e6:.0f} us per step for the schedule"
    peers = {name: attention_peer(plan, case, name) for name in plan.peers}
    return figure(timing=timing, error=error, allowed=case.allowed_error, peers=peers, note=note)


def attention_peer(plan: Plan, case: AttentionCase, name: str) -> PeerFigure:
    """A peer on the same inputs, checked like our own kernel."""
    is_real = plan.device.type == "cuda"
    if name == SLOW_PEER and is_real and (case.model.name, case.workload.name) not in SLOW_PEER_SHAPES:
        return PeerFigure(note=LEFT_OUT)
    try:
        attend = plan.peers[name](case)
        with torch.inference_mode():
            error = case.error_of(attend().reshape(case.out.shape))
            if not error <= case.allowed_error:
                return PeerFigure(note=f"{WRONG}: error {error:.1e}")
            return PeerFigure(timing=plan.clock.measure(attend))
    except NotInstalled:
        return PeerFigure(note=NOT_INSTALLED)
    except NotComparable as why:
        return PeerFigure(note=str(why))
    except Exception as failure:  # whatever a peer stumbles over is no reason to lose our own figures
        return PeerFigure(note=reason(failure))


def op_figure(plan: Plan, model: str, op: Op, build: Build) -> Figure:
    """One op at one shape, beside plain torch."""
    figure = partial(Figure, op=op.name, model=model)
    try:
        case = build()
        error = run_and_compare(op, case.inputs)
        launches = op.launches(case.inputs)
        timing = plan.clock.measure(partial(run_all, launches))
        peers = {PLAIN: PeerFigure(timing=plan.clock.measure(case.plain))} if case.plain else {}
    except Exception as failure:  # as above
        return figure(
            shape="", num_bytes=0, operations=0, timing=None, error=float("nan"), allowed=0.0, note=reason(failure)
        )
    return figure(
        shape=case.shape,
        num_bytes=case.num_bytes,
        operations=case.operations,
        timing=timing,
        error=error,
        allowed=0.0 if op.is_exact else ALLOWED,
        peers=peers,
    )


def run_all(launches: Sequence[Launch]) -> None:
    """Put them on the device, in order."""
    for launch in launches:
        launch.run()


def reason(failure: Exception) -> str:
    """A failure in one line."""
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:200]}"
