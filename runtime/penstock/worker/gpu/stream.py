"""Work on a device, in order: everything that a step does there goes through one stream.

What runs on the device is a closure that is handed to `enqueue`. The host never looks at what it computes except
through an event. So a device that is not there can be played by a thread (tests do), and nobody waits by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], None]


class Event(Protocol):
    """A place in a stream."""

    def is_reached(self) -> bool:
        """True once everything before it is done; never blocks."""

    def wait(self) -> None:
        """Block until then. Raises `DeviceError` if something before it went wrong on the device."""


class Stream(Protocol):
    """The order of everything on one device."""

    device: torch.device

    def enqueue(self, work: Work) -> None:
        """Run `work` after everything before it; returns at once. What it reads of the host must stay as it is."""

    def record(self) -> Event:
        """The place after everything that has been enqueued."""

    def capture(self, work: Work) -> Work:
        """`work` as a graph whose replay does the same again with the same memory; it does not run now.

        All graphs of a stream share one memory pool. The result goes to `enqueue`.
        """

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeroed host memory that the device copies from and to without waiting."""


class CudaEvent:
    """See `Event`."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def is_reached(self) -> bool:
        """See `Event.is_reached`."""
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """See `Event.wait`."""
        self._event.synchronize()


class CudaStream:
    """A stream of its own on a GPU, and the memory pool of its graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def enqueue(self, work: Work) -> None:
        """See `Stream.enqueue`."""
        with torch.cuda.stream(self._stream):
            work()

    def record(self) -> CudaEvent:
        """See `Stream.record`."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return CudaEvent(event)

    def capture(self, work: Work) -> Work:
        """See `Stream.capture`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # not `torch.cuda.graph`: that waits for the device and empties its caches, while requests are being served
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph.replay

    def host_buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See `Stream.host_buffer`."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)
