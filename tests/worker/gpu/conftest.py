"""Tests of the GPU's worker run Triton's kernels: on a GPU where there is one, else in the interpreter, on a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from penstock.worker.gpu.stream import CudaStream, Stream
from support.thread_stream import DEVICE, ThreadStream

NewStream = Callable[..., Stream]


@pytest.fixture
def new_thread() -> Iterator[Callable[..., ThreadStream]]:
    """Makes played devices that end with the test; only where Triton is interpreted."""
    if DEVICE.type == "cuda":
        pytest.skip("kernels are compiled for the GPU here")
    streams: list[ThreadStream] = []

    def make(seed: int | None = None) -> ThreadStream:
        streams.append(ThreadStream(seed))
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


@pytest.fixture
def new_stream(request: pytest.FixtureRequest) -> NewStream:
    """Makes devices: real ones, or played ones whose pauses a seed decides."""
    if DEVICE.type == "cuda":
        return lambda seed=None: CudaStream(DEVICE)
    made: NewStream = request.getfixturevalue("new_thread")
    return made
