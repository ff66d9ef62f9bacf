"""Gaps of running streams, sorted by whether a long prompt was under way."""

from __future__ import annotations

import json
import math

import pytest

from penstock.bench.interference import Interference
from penstock.bench.load_generator import Exchange, Target

SCENE = Interference(num_streams=2, long_tokens=40, num_long=2, quiet=2.0, every=3.0, seed=5)
TARGET = Target(url="http://here", model="m")


def stream(*events: float) -> Exchange:
    return Exchange(due=0.0, events=list(events))


def long(due: float, first: float, text: str = "x") -> Exchange:
    return Exchange(due=due, events=[first], num_tokens=1, is_complete=bool(text), text=text)


def test_the_streams_come_first_and_leave_when_the_last_long_prompt_has_had_its_time():
    planned = SCENE.plan(TARGET)
    assert [request.due for request in planned] == [0.0, 0.0, 3.5, 6.5]
    assert [request.leave for request in planned] == [9.5, 9.5, math.inf, math.inf]
    prompts = [json.loads(request.body)["prompt"] for request in planned]
    assert [len(prompt) for prompt in prompts] == [16, 16, 40, 40]
    assert prompts[2] != prompts[3]
    assert [request.body for request in SCENE.plan(TARGET)] == [request.body for request in planned]


def test_gaps_are_quiet_before_the_first_long_prompt_and_busy_while_one_waits_for_its_first_token():
    effect = SCENE.effect(
        [
            stream(1.0, 1.6, 1.7, 3.4, 3.6, 4.9, 5.5),
            stream(6.4, 6.45, 7.0),
            long(3.5, 5.0),
            long(6.5, 6.9, text=""),  # not answered: its time counts for nothing
        ]
    )
    assert effect.quiet == pytest.approx([0.1, 1.7])
    assert effect.busy == pytest.approx([0.2, 1.3, 0.6])
    assert effect.texts == ["x", ""]
    assert effect.figures()["TTFT p50 of the long prompts"] == pytest.approx(1500)


def test_without_anything_seen_figures_are_no_numbers():
    figures = SCENE.effect([stream(), stream(), long(3.5, 4.0, ""), long(6.5, 7.0, "")]).figures()
    assert all(math.isnan(value) for value in figures.values())
