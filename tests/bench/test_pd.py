"""What `penstock bench pd` does with cores, figures and answers."""

from __future__ import annotations

import math
import os

import pytest

from penstock.bench.pd import compare_texts, halves_of, interference_rows, median
from penstock.errors import ConfigError, PenstockError


def test_each_pod_gets_half_of_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 1, 2, 3, 0})
    assert halves_of(None) == [[0, 1], [2, 3]]
    assert halves_of("4,2") == [[4], [2]]
    for wrong in ("1", "a,b", "1,9"):
        with pytest.raises(ConfigError, match="cores"):
            halves_of(wrong)


def test_only_answers_that_are_there_and_equal_count():
    row = compare_texts({"disaggregated": ["a", "b", ""], "colocated": ["a", "c", ""]})
    assert (row.value, row.limit) == (1, 3)
    with pytest.raises(PenstockError, match="no request"):
        compare_texts({"disaggregated": [], "colocated": []})


def test_a_seed_without_a_figure_does_not_count():
    assert median([{"x": 1.0}, {"x": math.nan}, {"x": 3.0}], "x") == 2.0
    assert math.isnan(median([{"x": math.nan}], "x"))


def test_a_busy_latency_stands_beside_the_quiet_one_and_the_other_arrangement():
    quiet, busy = "ITL p99, quiet", "ITL p99, long prompts arriving"
    runs = {"disaggregated": [{quiet: 10.0, busy: 11.0}], "colocated": [{quiet: 10.0, busy: 200.0}]}
    row = interference_rows("disaggregated", runs)[1]
    assert (row.value, row.limit, row.peer) == (11.0, 10.0, 200.0)
    assert "1.10 times quiet" in row.note
    assert interference_rows("colocated", runs)[1].peer is None
