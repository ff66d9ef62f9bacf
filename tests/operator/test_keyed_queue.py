from __future__ import annotations

import random
import threading
import time

import pytest

from penstock_operator.keyed_queue import FIRST_RETRY, LAST_RETRY, KeyedQueue
from support.clock import Clock


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def queue(clock):
    return KeyedQueue(clock)


def taken(queue) -> list[str]:
    keys = []
    while (key := queue.take(0.0)) is not None:
        keys.append(key)
    return keys


def test_a_key_that_was_added_often_is_taken_once(queue):
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert taken(queue) == ["a", "b"]
    assert len(queue) == 0


def test_a_key_is_taken_when_it_is_due_and_the_earliest_wish_counts(queue, clock):
    queue.add("a", after=10.0)
    queue.add("a", after=60.0)
    queue.add("b", after=5.0)
    assert taken(queue) == []
    assert (len(queue), queue.num_due) == (2, 0)
    clock.now += 5.0
    assert taken(queue) == ["b"]
    clock.now += 5.0
    assert taken(queue) == ["a"]
    queue.add("c", after=60.0)
    queue.add("c")
    assert taken(queue) == ["c"]


def test_what_is_added_while_it_is_worked_on_comes_again_when_that_ends(queue):
    queue.add("a")
    assert taken(queue) == ["a"]
    queue.add("a")
    assert taken(queue) == [], "two threads must never have one key"
    queue.finish("a")
    assert taken(queue) == ["a"]
    queue.finish("a")
    assert taken(queue) == []


def test_failures_wait_twice_as_long_each_time_and_success_forgets_them(queue, clock):
    waits = []
    for _ in range(12):
        queue.add("a")
        assert taken(queue) == ["a"]
        waits.append(queue.fail("a"))
    assert waits[:4] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, 8 * FIRST_RETRY]
    assert waits[-1] == LAST_RETRY
    clock.now += LAST_RETRY
    assert taken(queue) == ["a"]
    assert queue.fail("a", longest=3.0) == 3.0
    clock.now += 3.0
    assert taken(queue) == ["a"]
    queue.finish("a")
    queue.add("a")
    assert taken(queue) == ["a"]
    assert queue.fail("a") == FIRST_RETRY


def test_a_change_during_back_off_is_looked_at_at_once(queue):
    queue.add("a")
    assert taken(queue) == ["a"]
    queue.fail("a")
    queue.add("a")
    assert taken(queue) == ["a"]


def test_closing_wakes_whoever_waits():
    queue = KeyedQueue(time.monotonic)
    found = []
    thread = threading.Thread(target=lambda: found.append(queue.take(30.0)))
    thread.start()
    queue.close()
    thread.join(5.0)
    assert found == [None]


def test_many_threads_never_work_on_one_key_at_once_and_lose_none():
    queue, lock = KeyedQueue(time.monotonic), threading.Lock()
    running: set[int] = set()
    problems: list[int] = []
    looks = dict.fromkeys(range(20), 0)

    def work():
        while (key := queue.take(0.3)) is not None:
            with lock:
                if key in running:
                    problems.append(key)
                running.add(key)
            time.sleep(0.0005)
            with lock:
                running.discard(key)
                looks[key] += 1
            queue.finish(key)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    chosen = random.Random(6)
    for _ in range(1000):
        queue.add(chosen.randrange(20), after=chosen.choice((0.0, 0.0, 0.001)))
    for thread in threads:
        thread.join(10.0)
    assert problems == []
    assert min(looks.values()) >= 1
    assert len(queue) == 0


def test_an_older_wish_for_the_same_moment_does_not_bring_a_key_that_is_being_worked_on(queue, clock):
    queue.add("a", after=10.0)
    queue.add("a")
    assert taken(queue) == ["a"]
    queue.add("a", after=10.0)
    clock.now += 10.0
    assert taken(queue) == []
    queue.finish("a")
    assert taken(queue) == ["a"]


def test_what_can_wait_is_taken_when_nothing_is_due_and_once(queue, clock):
    for key in "abc":
        queue.add_for_later(key)
    queue.add("c")
    queue.add("b", after=10.0)
    assert len(queue) == 3
    assert taken(queue) == ["c", "a", "b"]
    for key in "abc":
        queue.finish(key)
    clock.now += 10.0
    assert taken(queue) == ["b"]


def test_what_can_wait_is_not_worked_on_twice_at_a_time(queue):
    queue.add("a")
    assert queue.take(0.0) == "a"
    queue.add_for_later("a")
    assert queue.take(0.0) is None
    queue.finish("a")
    assert taken(queue) == ["a"]
