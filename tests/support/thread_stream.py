"""A device that is not there: its work runs on a thread, in order, later than it was asked for."""

from __future__ import annotations

import queue
import random
import threading
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.worker.gpu.stream import Work

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # what tests of the GPU's worker run on
WAIT_SECONDS = 300.0
LONGEST_PAUSE = 0.003
SYNCS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class NoSync(TorchDispatchMode):
    """Raises where work would make the host wait for the device."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled code run as it was compiled, and see that."""
        return True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        assert name not in SYNCS, f"{name} makes the host wait for the device"
        return function(*args, **(kwargs or {}))


class ThreadEvent:
    """See `penstock.worker.gpu.stream.Event`."""

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._error: BaseException | None = None

    def reach(self, error: BaseException | None) -> None:
        self._error = error
        self._flag.set()

    def is_reached(self) -> bool:
        return self._flag.is_set()

    def wait(self) -> None:
        assert self._flag.wait(WAIT_SECONDS), "the device never got here"
        if self._error is not None:
            raise self._error


class ThreadStream:
    """Runs work on a thread of its own; copies read and write host memory when they run, not when they are asked for.

    `seed`: pauses at random before pieces of work. After an error nothing runs any more, and every event raises it.
    Host buffers and captured graphs are counted.
    """

    device = torch.device("cpu")

    def __init__(self, seed: int | None = None) -> None:
        self.num_captured = self.num_replayed = self.num_buffers = self.num_enqueued = 0
        self._dice = random.Random(seed) if seed is not None else None
        self._work: queue.Queue[Work | ThreadEvent | None] = queue.Queue()
        self._gate = threading.Event()
        self._gate.set()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def enqueue(self, work: Work) -> None:
        self.num_enqueued += 1
        self._work.put(work)

    def record(self) -> ThreadEvent:
        event = ThreadEvent()
        self._work.put(event)
        return event

    def capture(self, work: Work) -> Work:
        self.num_captured += 1

        def replay() -> None:
            self.num_replayed += 1
            work()

        return replay

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.num_buffers += 1
        return torch.zeros(shape, dtype=dtype)

    def pause(self) -> None:
        """Run nothing more until `resume`."""
        self._gate.clear()

    def resume(self) -> None:
        self._gate.set()

    def finish(self) -> None:
        """Wait until all that has been asked for is done."""
        self.record().wait()

    def close(self) -> None:
        self.resume()
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self._gate.wait()
            if self._dice is not None and self._dice.random() < 0.3:
                time.sleep(self._dice.random() * LONGEST_PAUSE)
            if isinstance(work, ThreadEvent):
                work.reach(self._error)
            elif self._error is None:
                try:
                    with NoSync():
                        work()
                except BaseException as error:  # shown where the test waits
                    self._error = error


class InlineStream:
    """The same, where everything is done when it is asked for."""

    device = torch.device("cpu")

    def enqueue(self, work: Work) -> None:
        with NoSync():
            work()

    def record(self) -> ThreadEvent:
        event = ThreadEvent()
        event.reach(None)
        return event

    def capture(self, work: Work) -> Work:
        return work

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)
