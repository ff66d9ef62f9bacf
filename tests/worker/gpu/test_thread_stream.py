"""The played device itself: later, in order, and strict."""

from __future__ import annotations

import pytest
import torch


def test_work_runs_later_and_in_order(new_thread):
    stream, source, target = new_thread(seed=1), torch.zeros(1), torch.zeros(3)
    stream.pause()
    for index in range(3):
        stream.enqueue(lambda index=index: target[index].copy_(source[0] + index))
    event = stream.record()
    source.fill_(10.0)  # what is copied is what is there when the copy runs
    assert not event.is_reached()
    stream.resume()
    event.wait()
    assert target.tolist() == [10.0, 11.0, 12.0]


def test_work_that_would_make_the_host_wait_is_an_error_at_the_next_event(new_thread):
    stream, flag = new_thread(), torch.ones(2)
    done = []
    stream.enqueue(lambda: done.append(flag.sum().item()))
    stream.enqueue(lambda: done.append("later"))
    with pytest.raises(AssertionError, match="makes the host wait"):
        stream.finish()
    assert done == []
