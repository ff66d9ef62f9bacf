from __future__ import annotations

import pytest

from penstock.engine.prefill_rate import PrefillRate


def test_nothing_is_known_before_something_was_measured():
    assert PrefillRate().value == 0.0


def test_it_is_tokens_by_seconds_whatever_the_size_of_the_steps():
    rate = PrefillRate()
    for num_tokens in (100, 300, 2000, 96):
        rate.observe(num_tokens, num_tokens / 500)
    assert rate.value == pytest.approx(500)


def test_a_few_tokens_at_the_end_of_a_prompt_say_nothing():
    rate = PrefillRate()
    rate.observe(1000, 1.0)
    for _ in range(50):
        rate.observe(10, 0.2)
    assert rate.value == pytest.approx(1000)


def test_the_past_is_forgotten():
    rate = PrefillRate()
    rate.observe(1000, 1.0)
    for _ in range(20):
        rate.observe(200, 2.0)
    assert rate.value == pytest.approx(100, rel=0.1)


def test_a_step_in_which_the_machine_stood_still_hardly_counts():
    rate = PrefillRate()
    for _ in range(10):
        rate.observe(330, 1.0)
    rate.observe(330, 16.0)
    assert rate.value > 200
    for _ in range(10):
        rate.observe(330, 10.0)
    assert rate.value < 60, "but who is slow for long is slow"
