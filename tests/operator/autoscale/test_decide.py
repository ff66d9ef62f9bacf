"""What follows from what pods say: one sentence, one test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock_operator.autoscale.decide import decide, window_seconds
from penstock_operator.autoscale.history import History
from penstock_operator.autoscale.signals import PodLoad, RoleLoad, Signals
from support.simulated_load import a_service

NOW = 1_000_000.0
IDLE_POD = PodLoad(
    running=0,
    waiting=0,
    queued_tokens=0,
    kv_usage=0.0,
    prefill_rate=1000.0,
    prompt_tokens=0,
    output_tokens=0,
    max_num_seqs=64,
)
ONE_ROLE = {"prefill": None, "connector": None}


def pods(count: int, *, starting: int = 0, missing: tuple[str, ...] = (), **load) -> RoleLoad:
    pod = replace(IDLE_POD, **load)
    return RoleLoad(pods={f"pod-{i}": pod for i in range(count)}, num_starting=starting, missing=missing)


def signals(
    at: float, *, held: int = 0, in_flight: int = 0, router: bool = True, finished: int = 0, **roles
) -> Signals:
    return Signals(
        at=at,
        roles=roles,
        has_router=router,
        is_router_missing=False,
        held=held,
        in_flight=in_flight,
        finished=finished,
        rejected=0,
    )


class Told:
    """A service to which the same thing is said for a while."""

    def __init__(self, **spec):
        self.service, self.history, self.now = a_service(**spec), History(), NOW

    def say(self, seconds: float, *, held: int = 0, in_flight: int = 0, router: bool = True, **roles) -> Told:
        for _ in range(max(1, round(seconds / 2))):
            self.now += 2
            said = signals(self.now, held=held, in_flight=in_flight, router=router, **roles)
            self.history.add(said, self.service.spec, window_seconds(self.service.spec.autoscaling))
        return self

    def decide(self, gpus: int = 0, **current):
        return decide(self.service, self.history, current, dict.fromkeys(current, gpus), self.now)


def one_role(**autoscaling) -> Told:
    return Told(**ONE_ROLE, autoscaling={"mode": "Builtin", "decode": {"max": 10}} | autoscaling)


def test_a_full_kv_cache_asks_for_as_many_pods_as_would_be_at_the_target():
    verdict = one_role().say(10, both=pods(4, kv_usage=0.96)).decide(both=4)
    assert verdict.targets == {"both": 5}
    assert (verdict.reasons["both"].signal, round(verdict.reasons["both"].value)) == ("kvUtilizationPercent", 96)


def test_a_little_above_the_target_is_no_reason():
    assert one_role().say(10, both=pods(4, kv_usage=0.85)).decide(both=4).targets == {"both": 4}


def test_the_target_of_the_spec_is_followed():
    told = one_role(decode={"max": 10, "targetKVUtilization": 50})
    assert told.say(10, both=pods(4, kv_usage=0.85)).decide(both=4).targets == {"both": 7}


def test_what_waits_while_the_cache_is_full_counts():
    verdict = one_role().say(10, both=pods(2, kv_usage=1.0, running=10, waiting=10)).decide(both=2)
    assert verdict.targets == {"both": 5}


def test_what_waits_for_something_else_than_room_does_not_count():
    assert one_role().say(10, both=pods(2, kv_usage=0.3, running=10, waiting=10)).decide(both=2).targets["both"] == 2


def test_a_queue_of_prompts_asks_for_prefill_pods():
    told = Told()
    for queued in (0, 0, 3000, 6000, 9000):  # it grows by 1.5 pods' worth of work
        told.say(2, prefill=pods(1, queued_tokens=queued), decode=pods(1))
    verdict = told.decide(prefill=1, decode=1)
    assert verdict.targets["prefill"] > 1
    assert verdict.targets["decode"] == 1
    assert verdict.reasons["prefill"].signal == "queueSeconds"


def test_time_between_tokens_beyond_the_promise_asks_for_pods():
    told = Told(**ONE_ROLE, autoscaling={"mode": "Builtin", "decode": {"max": 10}}, slo={"itl": "50ms"})
    for tokens in range(0, 1000, 200):  # 10 requests, 200 tokens in 2 s: 0.1 s from token to token
        told.say(2, both=pods(2, running=10, output_tokens=tokens))
    verdict = told.decide(both=2)
    assert verdict.targets == {"both": 4}
    assert verdict.reasons["both"].signal == "itlSeconds"


def test_time_between_tokens_of_pods_that_have_one_request_each_is_what_it_is():
    told = Told(**ONE_ROLE, autoscaling={"mode": "Builtin", "decode": {"max": 10}}, slo={"itl": "50ms"})
    for tokens in range(0, 100, 20):
        told.say(2, both=pods(2, running=1, output_tokens=tokens))
    assert told.decide(both=2).targets == {"both": 2}


def test_growth_waits_for_what_starts():
    verdict = one_role(decode={"max": 100}).say(10, both=pods(2, kv_usage=1.0, running=2, waiting=40)).decide(both=2)
    assert verdict.targets == {"both": 6}
    assert verdict.reasons["both"].limited_by == "growth"


def test_pods_that_start_are_counted_on_the_way_up():
    told = one_role().say(10, both=pods(4, kv_usage=1.0, starting=1))
    assert told.decide(both=5).targets == {"both": 5}


def test_pods_that_start_are_not_counted_on_the_way_down():
    told = one_role().say(400, both=pods(4, kv_usage=0.4, starting=2))
    assert told.decide(both=6).targets == {"both": 5}  # 3 that are needed, and 2 that are nothing yet


def test_fewer_only_after_the_whole_window():
    told = one_role().say(290, both=pods(8, kv_usage=0.2))
    assert told.decide(both=8).targets == {"both": 8}
    assert told.say(20, both=pods(8, kv_usage=0.2)).decide(both=8).targets == {"both": 3}


def test_the_greatest_need_of_the_window_stays():
    told = one_role().say(280, both=pods(8, kv_usage=0.2)).say(10, both=pods(8, kv_usage=0.6))
    assert told.say(280, both=pods(8, kv_usage=0.2)).decide(both=8).targets == {"both": 8}


def test_a_window_up_is_waited_for():
    told = one_role(windows={"up": "1m"}).say(50, both=pods(4, kv_usage=1.0))
    assert told.decide(both=4).targets == {"both": 4}
    assert told.say(20, both=pods(4, kv_usage=1.0)).decide(both=4).targets["both"] > 4


def test_nothing_moves_while_a_ready_pod_does_not_answer():
    told = one_role().say(400, both=pods(8, kv_usage=0.1)).say(2, both=pods(7, kv_usage=0.1, missing=("pod-7",)))
    verdict = told.decide(both=8)
    assert verdict.targets == {"both": 8}
    assert verdict.holds == {"both": "not all ready pods answer"}
    told = one_role().say(10, both=pods(4, kv_usage=1.0)).say(2, both=pods(3, kv_usage=1.0, missing=("pod-3",)))
    assert told.decide(both=4).targets == {"both": 4}


def test_max_and_min_are_kept_and_named():
    verdict = one_role(decode={"max": 3}).say(10, both=pods(3, kv_usage=1.0, running=4, waiting=9)).decide(both=3)
    assert (verdict.targets["both"], verdict.reasons["both"].limited_by) == (3, "max")
    verdict = one_role(decode={"min": 2, "max": 3}).say(400, both=pods(3)).decide(both=3)
    assert (verdict.targets["both"], verdict.reasons["both"].limited_by) == (2, "min")
    verdict = one_role(decode={"min": 2, "max": 3}).say(2, both=pods(1)).decide(both=1)
    assert (verdict.targets["both"], verdict.reasons["both"].signal) == (2, "limits")


def test_a_schedule_sets_other_limits_while_it_is_on():
    schedule = {"name": "always", "start": "* * * * *", "duration": "1h", "decode": {"min": 5}}
    verdict = one_role(schedules=[schedule]).say(2, both=pods(1)).decide(both=1)
    assert (verdict.targets["both"], verdict.reasons["both"].limited_by) == (5, "schedule always")


def test_a_role_that_autoscaling_does_not_name_is_left_alone():
    told = Told(autoscaling={"mode": "Builtin", "decode": {"max": 4}})
    told.say(400, prefill=pods(3), decode=pods(3, kv_usage=0.7))
    assert told.decide(prefill=3, decode=3).targets == {"prefill": 3, "decode": 3}


def test_idle_long_enough_means_zero_for_all_roles():
    told = Told(autoscaling={"mode": "Builtin", "prefill": {}, "decode": {}, "scaleToZeroAfter": "10m"})
    told.say(590, prefill=pods(1), decode=pods(1))
    assert told.decide(prefill=1, decode=1).targets == {"prefill": 1, "decode": 1}
    verdict = told.say(20, prefill=pods(1), decode=pods(1)).decide(prefill=1, decode=1)
    assert verdict.targets == {"prefill": 0, "decode": 0}
    assert verdict.reasons["decode"].signal == "idleSeconds"


@pytest.mark.parametrize("sign", [{"held": 1}, {"in_flight": 1}, {"router": False}])
def test_a_single_sign_of_life_or_doubt_forbids_zero(sign):
    told = one_role(scaleToZeroAfter="1m").say(50, both=pods(1)).say(2, both=pods(1), **sign)
    assert told.say(50, both=pods(1)).decide(both=1).targets == {"both": 1}


def test_a_request_that_the_router_holds_ends_zero():
    told = one_role(scaleToZeroAfter="1m", decode={"min": 2, "max": 3}).say(10, both=pods(0))
    assert told.decide(both=0).targets == {"both": 0}
    verdict = told.say(2, held=1, in_flight=1, both=pods(0)).decide(both=0)
    assert (verdict.targets["both"], verdict.reasons["both"].signal) == (2, "heldRequests")


def test_at_zero_without_an_answer_of_the_router_nothing_is_decided():
    verdict = one_role(scaleToZeroAfter="1m").say(10, router=False, both=pods(0)).decide(both=0)
    assert verdict.targets == {"both": 0}
    assert "no router answers" in verdict.holds["both"]


def test_the_budget_is_shared_by_what_each_role_lacks():
    told = Told(autoscaling={"mode": "Builtin", "prefill": {"max": 20}, "decode": {"max": 20}, "gpuBudget": 6})
    told.say(10, prefill=pods(2), decode=pods(2, kv_usage=1.0, running=4, waiting=40))
    verdict = told.decide(gpus=1, prefill=2, decode=2)
    assert verdict.targets == {"prefill": 2, "decode": 4}
    assert verdict.reasons["decode"].limited_by == "gpuBudget"


def test_a_spent_budget_moves_to_the_role_that_lacks_more():
    told = Told(autoscaling={"mode": "Builtin", "prefill": {"max": 9}, "decode": {"max": 9}, "gpuBudget": 6})
    for tokens in range(200):  # prefill pods that compute half of the time are two of three too many, and yet needed
        told.say(
            2,
            prefill=pods(3, prompt_tokens=1200 * tokens),
            decode=pods(3, kv_usage=1.0, running=4, waiting=40),
        )
    assert told.decide(gpus=1, prefill=3, decode=3).targets == {"prefill": 2, "decode": 4}


def test_a_long_window_down_does_not_make_growing_slow():
    told = one_role(windows={"down": "1h"}).say(60, both=pods(4, kv_usage=0.3)).say(12, both=pods(4, kv_usage=0.96))
    assert told.decide(both=4).targets == {"both": 5}


def test_a_window_that_was_made_longer_is_not_known_before_it_is_over():
    told = one_role(windows={"down": "10s"}).say(60, both=pods(4, kv_usage=0.1))
    told.service = one_role(windows={"down": "50s"}).service
    assert told.say(20, both=pods(4, kv_usage=0.1)).decide(both=4).targets == {"both": 4}
    assert told.say(32, both=pods(4, kv_usage=0.1)).decide(both=4).targets == {"both": 1}


def test_a_few_prompts_at_once_are_no_growing_queue_right_after_the_first_look():
    told = one_role().say(2, both=pods(1)).say(2, both=pods(1, queued_tokens=3000))
    assert told.decide(both=1).targets == {"both": 1}
