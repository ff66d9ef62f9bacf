"""The queue, with times passed in."""

from __future__ import annotations

from collections import Counter

import pytest

from penstock.errors import Overloaded
from penstock.router.admission import Admission, Waiter


def queue(**values) -> Admission:
    made = Admission(**{"max_held": 100, "queue_seconds": 10.0, "hold_seconds": 60.0} | values)
    made.set_up(True, 0.0)
    return made


def waiter(tenant: str, work: float = 1.0, since: float = 0.0) -> Waiter:
    return Waiter(tenant=tenant, work=work, since=since)


def test_one_tenant_is_served_in_order():
    admission = queue()
    waiters = [waiter("a") for _ in range(5)]
    for one in waiters:
        admission.offer(one, 0.0)
    assert [admission.take(0.0) for _ in range(6)] == [*waiters, None]


def test_tenants_share_places_by_work():
    admission = queue(max_held=1000)
    for _ in range(200):
        admission.offer(waiter("small", 10), 0.0)
        admission.offer(waiter("large", 40), 0.0)
    work = Counter()
    for _ in range(100):
        taken = admission.take(0.0)
        work[taken.tenant] += taken.work
    assert work["small"] == pytest.approx(work["large"], abs=40)


def test_a_tenant_that_was_idle_has_saved_up_nothing():
    admission = queue(max_held=1000)
    for _ in range(100):
        admission.offer(waiter("busy"), 0.0)
    for _ in range(50):
        admission.take(0.0)
    for _ in range(50):
        admission.offer(waiter("newcomer"), 0.0)
    assert Counter(admission.take(0.0).tenant for _ in range(40)) == {"busy": 20, "newcomer": 20}


def test_a_tenant_cannot_get_ahead_by_sending_one_at_a_time():
    admission = queue(max_held=1000)
    for _ in range(100):
        admission.offer(waiter("steady"), 0.0)
    served = Counter()
    admission.offer(waiter("sly", 5), 0.0)
    for _ in range(60):
        taken = admission.take(0.0)
        served[taken.tenant] += taken.work
        if taken.tenant == "sly":
            admission.offer(waiter("sly", 5), 0.0)
    assert served["sly"] <= served["steady"] + 10


def test_a_full_queue_gives_way_to_a_tenant_that_has_less_in_it():
    admission = queue(max_held=10)
    flood = [waiter("flood") for _ in range(10)]
    for one in flood:
        assert admission.offer(one, 0.0) is None
    with pytest.raises(Overloaded):
        admission.offer(waiter("flood"), 0.0)
    assert admission.offer(waiter("other"), 0.0) is flood[-1]
    assert admission.num_waiting == 10


def test_who_waited_too_long_leaves_and_who_would_is_not_let_in():
    admission = queue(queue_seconds=10.0, max_held=1000)
    for _ in range(200):
        admission.offer(waiter("a"), 0.0)
    for step in range(20):
        admission.take(step * 0.1)  # 10 a second: 180 are 18 seconds
    with pytest.raises(Overloaded) as refusal:
        admission.offer(waiter("a"), 2.0)
    assert 15 < refusal.value.retry_after < 21
    admission.offer(waiter("b", since=2.0), 2.0)  # who has nothing waiting is next
    assert admission.expire(9.9) == []
    assert len(admission.expire(10.0)) == 180
    assert admission.take(10.0).tenant == "b"


def test_patience_with_full_pods_begins_when_the_first_is_there():
    admission = queue(queue_seconds=10.0, hold_seconds=60.0)
    admission.set_up(False, 0.0)
    admission.offer(waiter("a"), 0.0)
    assert admission.expire(50.0) == []
    admission.set_up(True, 50.0)
    assert admission.expire(59.0) == []
    assert len(admission.expire(60.0)) == 1
    admission.set_up(False, 60.0)
    admission.offer(waiter("a", since=60.0), 60.0)
    assert len(admission.expire(120.0)) == 1


def test_a_removed_one_is_not_served():
    admission = queue()
    first, second = waiter("a"), waiter("a")
    admission.offer(first, 0.0)
    admission.offer(second, 0.0)
    admission.remove(first)
    admission.remove(first)
    assert admission.take(0.0) is second
    assert (admission.take(0.0), admission.num_waiting) == (None, 0)


def test_those_that_had_a_place_come_first_and_wait_as_long_as_for_a_pod():
    admission = queue(queue_seconds=1.0, hold_seconds=60.0)
    moved = waiter("a")
    admission.offer_again(moved, 5.0)
    assert admission.urgent == [moved]
    assert admission.expire(64.0) == []
    assert admission.expire(65.0) == [moved]
    assert admission.num_waiting == 0
