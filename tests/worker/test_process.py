"""How a worker's process takes plans and answers, over a worker that does as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import pytest

from penstock.core.plan import StepPlan, StepResult, no_ints
from penstock.errors import DeviceError, DeviceFault
from penstock.wire import decoder, encode
from penstock.worker.channel import Channel
from penstock.worker.process import next_message, run_ahead, run_in_turn
from penstock.worker.warm_up import plan_of

SECONDS = 10


class Step:
    """A step that is done when the test says so."""

    def __init__(self, plan: StepPlan) -> None:
        self.number = plan.step
        self._end: SimpleQueue[Exception | None] = SimpleQueue()

    def end(self, failure: Exception | None = None) -> None:
        self._end.put(failure)

    def wait(self) -> StepResult:
        if (failure := self._end.get(timeout=SECONDS)) is not None:
            raise failure
        return StepResult(
            step=self.number,
            rows=no_ints(),
            token_ids=np.array([self.number], dtype=np.int32),
            logprobs=None,
            prompt_logprobs=(),
            failed_rows=no_ints(),
            elapsed=0.0,
        )


@dataclass
class ScriptedWorker:
    """Steps that were begun, and graphs that are left."""

    begun: SimpleQueue[Step] = field(default_factory=SimpleQueue)
    num_graphs: int = 0
    on_capture: list = field(default_factory=list)

    def submit(self, plan: StepPlan) -> Step:
        step = Step(plan)
        self.begun.put(step)
        return step

    def capture_next(self) -> bool:
        if not self.num_graphs:
            return False
        self.num_graphs -= 1
        for each in self.on_capture:
            each()
        return True


class Engine:
    """The engine core's end of the channel, and the loop at the other one in a thread."""

    def __init__(self, loop) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self._theirs = Channel(ours), Channel(theirs)
        self.worker, self.ended = ScriptedWorker(), SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._thread.start()

    def _run(self, loop) -> None:
        try:
            loop(self.worker, self._theirs)
        except (EOFError, DeviceError) as error:
            self.ended.put(error)
            self._theirs.close()

    def tell(self, *steps: int) -> None:
        for step in steps:
            self.channel.send(encode(plan_of(step)))

    def hear(self) -> int:
        return decoder(StepResult).decode(self.channel.receive()).step

    def begun(self) -> Step:
        return self.worker.begun.get(timeout=SECONDS)

    def close(self) -> None:
        self.channel.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture(params=[run_in_turn, run_ahead], ids=["in turn", "ahead"])
def either(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(request.param)
    yield engine
    engine.close()


@pytest.fixture
def ahead() -> Iterator[Engine]:
    engine = Engine(run_ahead)
    yield engine
    engine.close()


def test_steps_are_answered_in_order(either: Engine):
    either.tell(1, 2)
    for step in (1, 2):
        either.begun().end()
        assert either.hear() == step


def test_the_next_plan_is_taken_while_the_device_runs_the_last_and_each_answer_goes_at_once(ahead: Engine):
    ahead.tell(1, 2, 3)
    first, second, third = ahead.begun(), ahead.begun(), ahead.begun()
    third.end()  # a device goes in order; whoever waits must too
    first.end()
    assert ahead.hear() == 1
    assert ahead.channel.is_quiet()
    second.end()
    assert [ahead.hear(), ahead.hear()] == [2, 3]


def test_one_plan_at_a_time_is_taken_in_turn():
    engine = Engine(run_in_turn)
    engine.tell(1, 2)
    first = engine.begun()
    assert engine.worker.begun.empty()
    first.end()
    assert engine.hear() == 1
    engine.begun().end()
    assert engine.hear() == 2
    engine.close()


def test_a_failed_step_ends_the_loop_with_its_error_and_the_other_side_sees_the_end(either: Engine):
    either.tell(1)
    failure = DeviceError(DeviceFault.HARDWARE)
    either.begun().end(failure)
    assert either.ended.get(timeout=SECONDS) is failure
    with pytest.raises(EOFError):
        either.channel.receive()


def test_the_loop_ends_when_the_other_side_leaves_though_a_step_still_runs(ahead: Engine):
    ahead.tell(1)
    running = ahead.begun()
    ahead.channel.close()
    running.end()
    assert isinstance(ahead.ended.get(timeout=SECONDS), EOFError)


def test_graphs_are_captured_only_while_no_plan_waits():
    ours, theirs = socket.socketpair()
    engine, channel = Channel(ours), Channel(theirs)
    worker = ScriptedWorker(num_graphs=5)
    worker.on_capture = [lambda: worker.num_graphs == 3 and engine.send(b"a plan")]
    assert next_message(worker, channel) == b"a plan"
    assert worker.num_graphs == 3
    engine.send(b"another")
    assert next_message(worker, channel) == b"another"
    assert worker.num_graphs == 3
    engine.send(b"third")
    engine.send(b"fourth")
    assert [next_message(worker, channel), next_message(worker, channel)] == [b"third", b"fourth"]
    assert worker.num_graphs == 3
    engine.close()
    channel.close()
