"""What an operator with many services costs when nothing happens; `bench/operator_cost.py` measures a thousand."""

from __future__ import annotations

import time

from support.operator_run import MINIMAL, OperatorRun

NUM_SERVICES = 60
MOST_MILLISECONDS = 8.0  # CPU; a thousand services, looked at every ten minutes, may cost 5 % of a core: 30 ms each


def test_a_look_at_a_service_that_is_as_it_should_be_is_cheap():
    run = OperatorRun()
    keys = [run.create(MINIMAL, name=f"s{number}") for number in range(NUM_SERVICES)]
    run.settle(5)
    run.writes()
    costs = []
    for _ in range(3):
        for key in keys:
            run.queue.add(key)
        begun = time.process_time()
        assert run.work() == NUM_SERVICES
        costs.append((time.process_time() - begun) / NUM_SERVICES * 1e3)
    assert run.writes() == []
    assert min(costs) < MOST_MILLISECONDS
