"""Counters that workers share."""

from __future__ import annotations

from penstock.router.ledger import Ledger


def test_workers_see_the_sum_and_a_new_one_begins_at_nothing(tmp_path):
    workers = [Ledger(tmp_path, worker=number, num_workers=3) for number in range(3)]
    for number, worker in enumerate(workers):
        worker.add("10.0.0.1:1", number + 1)
    workers[0].add("10.0.0.2:1", 5)
    assert [worker.count("10.0.0.1:1") for worker in workers] == [6, 6, 6]
    workers[1] = Ledger(tmp_path, worker=1, num_workers=3)
    assert [worker.count("10.0.0.1:1") for worker in workers] == [4, 4, 4]
    assert workers[1].count("10.0.0.2:1") == 5
