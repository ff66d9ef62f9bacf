"""How time on a GPU is taken, with a device that only counts."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from penstock.bench.gpu.clock import CudaClock


class Device:
    """Says what was asked of it; work takes a millisecond and a replay half of that."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_capturable = True
        self.is_capturing = False
        self.runs = self.replays = 0

    def work(self) -> None:
        if self.is_capturing and not self.is_capturable:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.runs += 1
        self.now += 0.0 if self.is_capturing else 1.0

    def replay(self) -> None:
        self.replays += 1
        self.now += 0.5

    @contextmanager
    def capture(self, _):
        self.is_capturing = True
        try:
            yield
        finally:
            self.is_capturing = False

    def event(self, *, enable_timing: bool):
        assert enable_timing
        made = SimpleNamespace(at=0.0)
        made.record = lambda: setattr(made, "at", self.now)
        made.elapsed_time = lambda other: other.at - made.at
        return made


@pytest.fixture
def device(monkeypatch):
    found = Device()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "Event": found.event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: contextmanager(lambda: iter([None]))(),
        "synchronize": lambda: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=found.replay),
        "graph": found.capture,
        "get_device_properties": lambda _: SimpleNamespace(L2_cache_size=1 << 20),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return found


def test_a_time_is_that_of_a_replayed_graph_after_the_warm_up(device):
    found = CudaClock(torch.device("cpu"), seconds=0.01, fewest=2, most=50).measure(device.work)
    assert found.median == pytest.approx(0.0005)
    assert found.is_graph
    assert found.repeats == 20  # a hundredth of a second, half a millisecond each
    assert device.runs == 4  # three to warm up, one that is captured
    assert device.replays == 3 + 3 + 20


def test_work_that_no_graph_takes_is_launched_each_time_and_that_is_said(device):
    device.is_capturable = False
    found = CudaClock(torch.device("cpu"), seconds=0.01, fewest=15, most=50).measure(device.work)
    assert found.median == pytest.approx(0.001)
    assert not found.is_graph
    assert found.repeats == 15
    assert device.replays == 0
