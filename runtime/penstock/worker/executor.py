"""Where steps run: in this process, or in one worker process per rank. No torch until a worker is in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from penstock.config import EngineConfig
from penstock.core.plan import StepPlan, StepResult
from penstock.errors import ConfigError, DeviceError, DeviceFault, ModelError, OutOfMemory, PenstockError
from penstock.kv_transfer.messages import TransferLaunch
from penstock.wire import decoder, encode
from penstock.worker.capacity import Capacity
from penstock.worker.channel import Channel
from penstock.worker.step import StepHandle

if TYPE_CHECKING:
    from penstock.worker.worker import Worker

WORLD_SIZE = 1  # ranks that share one model
EXIT_SECONDS = 5.0  # how long a worker may take to leave before it is killed


class WorkerDied(PenstockError):
    """A worker process ended while it was needed; its rows, blocks and steps in flight are gone with it."""


class Executor(Protocol):
    """Runs plans on every rank, in order."""

    depth: int  # steps that may be in flight at once; known once it has started

    def start(self) -> Capacity:
        """Load the model. Raises `ModelError`, `OutOfMemory` or `ConfigError`."""

    def submit(self, plan: StepPlan) -> StepHandle:
        """Begin a step."""

    def close(self) -> None:
        """Give everything back; may be called at any time, also twice."""


class InlineExecutor:
    """A worker in this process, with all that a server's worker would put off until it serves."""

    def __init__(
        self, config: EngineConfig, folder: Path, build: Callable[[EngineConfig, Path], Worker] | None = None
    ) -> None:
        """`build` makes the worker; default: the one for the device of the configuration."""
        self.depth = 1
        self._config, self._folder, self._build = config, folder, build
        self._worker: Worker | None = None

    def start(self) -> Capacity:
        """See `Executor.start`."""
        from penstock.worker.worker import build_worker

        self._worker = (self._build or build_worker)(self._config, self._folder)
        capacity = self._worker.start()
        while self._worker.capture_next():
            pass
        self.depth = capacity.depth
        return capacity

    def submit(self, plan: StepPlan) -> StepHandle:
        """See `Executor.submit`."""
        assert self._worker is not None, "submit before start"
        return self._worker.submit(plan)

    def close(self) -> None:
        """See `Executor.close`."""
        self._worker = None


class WorkerLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process is told at its start, as a file in the run folder."""

    config: EngineConfig
    folder: str  # the resolved model
    rank: int
    parent: int  # process id; the worker dies with it
    transfer: TransferLaunch | None = None  # None: blocks stay where they are


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Loading raised an error that is meant for a person."""

    kind: str
    message: str
    field: str | None = None  # of a ConfigError; of a DeviceError the name of its fault

    @classmethod
    def of(cls, error: PenstockError) -> LoadFailed:
        """The error as text."""
        if isinstance(error, DeviceError):
            return cls(kind=DeviceError.__name__, message=error.detail, field=error.fault.name)
        return cls(kind=type(error).__name__, message=str(error), field=getattr(error, "field", None))

    def to_error(self) -> PenstockError:
        """The same error again."""
        if self.kind == ConfigError.__name__ and self.field is not None:
            return ConfigError(self.field, self.message.partition(": ")[2])
        if self.kind == DeviceError.__name__ and self.field is not None:
            return DeviceError(DeviceFault[self.field], self.message)
        kinds: dict[str, type[PenstockError]] = {kind.__name__: kind for kind in (ModelError, OutOfMemory)}
        return kinds.get(self.kind, PenstockError)(self.message)


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """The worker is ready for plans."""

    capacity: Capacity


def death_of(worker: str, code: int) -> PenstockError:
    """Why a worker ended, from its exit code (negative: of a signal): `DeviceError`, else `WorkerDied`."""
    if code in {fault.value for fault in DeviceFault}:
        return DeviceError(DeviceFault(code), f"{worker} left with exit code {code}")
    how = f"was killed by signal {-code}" if code < 0 else f"left with exit code {code}"
    return WorkerDied(f"{worker} {how}")


class WorkerProcess:
    """One rank's process, and the channel to it. `WorkerDied` or `DeviceError` from any method if it is gone."""

    def __init__(self, launch: WorkerLaunch, run_dir: Path, module: str) -> None:
        file = run_dir / f"worker-{launch.rank}.json"
        file.write_bytes(msgspec.json.encode(launch))
        ours, theirs = socket.socketpair()
        fds = [theirs.fileno()]
        command = [sys.executable, "-P", "-m", module, f"--launch={file}", f"--fd={fds[0]}"]
        self.transfer: socket.socket | None = None  # to its transfer thread, if it has one
        with ExitStack() as stack:
            stack.enter_context(theirs)
            if launch.transfer is not None:
                self.transfer, other = socket.socketpair()
                fds.append(stack.enter_context(other).fileno())
                command.append(f"--transfer-fd={fds[1]}")
            self._process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
        self._rank = launch.rank
        self._channel = Channel(ours)

    def send(self, message: bytes) -> None:
        """Hand over one message."""
        try:
            self._channel.send(message)
        except EOFError:
            raise self._died() from None

    def receive(self) -> bytes:
        """The worker's next message."""
        try:
            return self._channel.receive()
        except EOFError:
            raise self._died() from None

    def close(self) -> None:
        """Let the worker leave, and see that it does."""
        self._channel.close()
        if self.transfer is not None:
            self.transfer.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _died(self) -> PenstockError:
        try:
            return death_of(f"worker {self._rank}", self._process.wait(EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            return WorkerDied(f"worker {self._rank} closed its channel but still runs")


class SubmittedStep:
    """A step that the workers have been told."""

    def __init__(self, executor: ProcessExecutor, step: int) -> None:
        self._executor, self._step = executor, step

    def wait(self) -> StepResult:
        """The result; raises `WorkerDied` or `DeviceError` as soon as a worker is gone."""
        return self._executor.take_result(self._step)


class ProcessExecutor:
    """One process per rank, all told the same plan; a message each way per step, over a socket pair.

    The workers die with the thread that calls `start` (a rule of the kernel's), so that must be a lasting one.
    """

    def __init__(
        self,
        config: EngineConfig,
        folder: Path,
        run_dir: Path,
        transfer: TransferLaunch | None = None,
        *,
        worker_module: str = "penstock.worker.process",
    ) -> None:
        self.depth, self._module = 1, worker_module
        self.transfer: socket.socket | None = None  # to the transfer thread of rank 0, once started, if there is one
        self._config, self._folder, self._run_dir, self._transfer = config, folder, run_dir, transfer
        self._workers: list[WorkerProcess] = []
        self._submitted: deque[int] = deque()
        self._decoder = decoder(StepResult)

    def start(self) -> Capacity:
        """See `Executor.start`. Raises `WorkerDied` or `DeviceError` too."""
        for rank in range(WORLD_SIZE):
            launch = WorkerLaunch(
                config=self._config,
                folder=str(self._folder),
                rank=rank,
                parent=os.getpid(),
                transfer=self._transfer,
            )
            self._workers.append(WorkerProcess(launch, self._run_dir, self._module))
        self.transfer = self._workers[0].transfer
        answers: list[Loaded | LoadFailed] = [
            msgspec.msgpack.decode(worker.receive(), type=Loaded | LoadFailed) for worker in self._workers
        ]
        for answer in answers:
            if isinstance(answer, LoadFailed):
                self.close()
                raise answer.to_error()
        capacity = next(answer.capacity for answer in answers if isinstance(answer, Loaded))
        self.depth = capacity.depth
        return capacity

    def submit(self, plan: StepPlan) -> SubmittedStep:
        """See `Executor.submit`. Raises `WorkerDied` or `DeviceError` too."""
        message = encode(plan)
        for worker in self._workers:
            worker.send(message)
        self._submitted.append(plan.step)
        return SubmittedStep(self, plan.step)

    def take_result(self, step: int) -> StepResult:
        """The result of the oldest step, which must be `step`; every rank answers, rank 0's answer counts."""
        oldest = self._submitted.popleft()
        assert oldest == step, f"waited for step {step} while step {oldest} is the oldest"
        answers = [worker.receive() for worker in self._workers]
        result: StepResult = self._decoder.decode(answers[0])
        assert result.step == step, f"worker 0 answered for step {result.step}, not {step}"
        return result

    def close(self) -> None:
        """See `Executor.close`."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
