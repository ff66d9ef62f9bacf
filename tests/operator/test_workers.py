from __future__ import annotations

import time

import pytest

from penstock_operator.errors import ApiError, NotLeading
from penstock_operator.keyed_queue import FIRST_RETRY, LAST_RETRY, SOON, KeyedQueue
from penstock_operator.metrics import Metrics
from penstock_operator.names import Key
from penstock_operator.workers import Workers
from support.clock import Clock

CHAT = Key("default", "chat")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    return KeyedQueue(clock)


def workers(queue, reconcile, may_work=lambda: True) -> Workers:
    return Workers(queue, reconcile, Metrics(), may_work=may_work, count=2)


def look(queue, reconcile, may_work=lambda: True) -> None:
    queue.add(CHAT)
    assert queue.take(0.0) == CHAT
    workers(queue, reconcile, may_work).look(CHAT)


def next_look(queue, clock) -> float | None:
    """Seconds until the key is due again."""
    begun = clock.now
    while clock.now - begun < 2 * LAST_RETRY:
        if queue.take(0.0) is not None:
            return clock.now - begun
        clock.now += 0.5
    return None


def failing(error: BaseException):
    def reconcile(key):
        raise error

    return reconcile


def test_a_service_is_looked_at_again_when_it_asked_for_that(queue, clock):
    look(queue, lambda key: 30.0)
    assert next_look(queue, clock) == 30.0


def test_a_service_that_asked_for_nothing_is_left_alone(queue, clock):
    look(queue, lambda key: None)
    assert next_look(queue, clock) is None


@pytest.mark.parametrize("error", [ApiError(0, "away"), ApiError(503, "busy"), ApiError(409, "changed"), ValueError()])
def test_whatever_goes_wrong_is_tried_again(queue, clock, error):
    look(queue, failing(error))
    assert next_look(queue, clock) == FIRST_RETRY


def test_an_api_server_that_was_away_for_long_is_asked_within_seconds(queue, clock):
    for _ in range(12):
        look(queue, failing(ApiError(0, "away")))
    assert next_look(queue, clock) == SOON


def test_without_the_lease_keys_are_dropped_because_whoever_takes_it_adds_all(queue, clock):
    look(queue, failing(AssertionError("must not be called")), may_work=lambda: False)
    assert len(queue) == 0
    look(queue, failing(NotLeading("lost")))
    assert len(queue) == 0


def test_threads_work_until_they_are_stopped():
    queue, looked = KeyedQueue(time.monotonic), []
    pool = workers(queue, looked.append)
    pool.start()
    keys = [Key("default", f"s{number}") for number in range(50)]
    for key in keys:
        queue.add(key)
    deadline = time.monotonic() + 10
    while len(looked) < len(keys) and time.monotonic() < deadline:
        time.sleep(0.01)
    pool.stop(5.0)
    assert sorted(looked) == sorted(keys)
