from __future__ import annotations

from penstock.engine.health import Progress, RestartPolicy


def test_a_quiet_engine_without_work_is_healthy_for_ever():
    progress = Progress()
    progress.reset(0.0)
    assert progress.is_healthy(1e9, is_pending=False)


def test_pending_work_without_a_step_becomes_unhealthy_and_a_step_heals():
    progress = Progress(limit=30.0)
    progress.reset(0.0)
    assert progress.is_healthy(29.9, is_pending=True)
    assert not progress.is_healthy(30.0, is_pending=True)
    progress.saw_step(30.0)
    assert progress.is_healthy(59.9, is_pending=True)


def test_gauges_without_a_new_step_are_a_pulse_and_no_progress():
    progress = Progress(limit=30.0)
    progress.reset(0.0)
    progress.saw_counter(5, 10.0)
    progress.saw_counter(5, 39.0)
    assert not progress.is_healthy(40.0, is_pending=True)
    progress.saw_counter(6, 41.0)
    assert progress.is_healthy(42.0, is_pending=True)


def test_restarts_are_at_once_then_slower_then_over():
    policy = RestartPolicy()
    assert [policy.pause_after_death(float(second)) for second in range(5)] == [0.0, 0.0, 0.5, 1.0, None]


def test_deaths_long_ago_are_forgiven():
    policy = RestartPolicy()
    assert all(policy.pause_after_death(31.0 * n) == 0.0 for n in range(20))
