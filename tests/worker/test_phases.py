"""The parts of a start."""

from __future__ import annotations

import itertools
import logging

from penstock.worker.phases import Phases


def test_parts_are_counted_in_silence_and_told_in_one_line(caplog):
    phases = Phases(clock=map(float, itertools.count()).__next__)
    with caplog.at_level(logging.DEBUG):
        for name in ("imports", "weights"):
            with phases.measure(name):
                pass
        assert not caplog.messages
        phases.tell()
    assert caplog.messages == ["start.phases imports=1 weights=1"]
    assert phases.total == 2.0
