"""The autoscaler over an API server in memory, with real HTTP to what stands for the router."""

from __future__ import annotations

import asyncio

import pytest

from penstock.internal.fleet import FleetEndpoint
from penstock_operator.autoscale.loop import Autoscaler, Outlets
from penstock_operator.kinds import AUTOSCALER, INFERENCE_SERVICE, POD, ROLE_SCALER
from penstock_operator.names import COMPONENT, INTERNAL_PORT, ROUTER
from support.fleet_teller import fleet_teller
from support.operator_run import OperatorRun


async def test_load_makes_pods_and_the_status_says_why(scaled):
    await scaled.look(3, kv_usage=1.0, running=8)
    assert scaled.request == 2
    await scaled.look(4, kv_usage=0.6, running=8)
    assert len(scaled.pods) == 2
    told = scaled.run.status(scaled.key)["autoscaling"]
    assert told["mode"] == "Builtin"
    assert [(one["from"], one["to"], one["signal"]) for one in told["lastDecisions"]] == [
        (1, 2, "kvUtilizationPercent")
    ]
    assert scaled.decided == [told["lastDecisions"][0]["message"]]
    assert "both from 1 to 2 pods: the KV cache" in scaled.decided[0]


async def test_a_limit_that_is_reached_is_told_once(scaled):
    await scaled.look(40, kv_usage=1.0, running=8)
    assert scaled.request == 5
    assert [message for message in scaled.decided if "max allows no more" in message] == [scaled.decided[-1]]


async def test_idle_it_goes_to_zero_and_a_held_request_brings_it_back(scaled):
    await scaled.look(310)
    assert scaled.request == 0
    await scaled.look(2)
    assert scaled.pods == []
    await scaled.look(1, held=1)
    assert scaled.request == 1
    assert [one.split(":")[0] for one in scaled.decided] == ["both from 1 to 0 pods", "both from 0 to 1 pods"]


async def test_a_router_that_does_not_answer_holds_and_the_condition_says_so(scaled):
    await scaled.look(3, kv_usage=0.5)
    scaled.teller.is_silent = True
    await scaled.look(3, kv_usage=1.0)
    assert scaled.request == 1
    assert scaled.run.condition(scaled.key, "ScalingActive")["reason"] == "Holding"
    assert "not all ready pods answer" in scaled.run.condition(scaled.key, "ScalingActive")["message"]


@pytest.mark.parametrize("scaled", ["Advisory"], indirect=True)
async def test_advice_is_told_and_not_followed(scaled):
    await scaled.look(20, kv_usage=1.0, running=8)
    assert scaled.request == 1
    assert len(scaled.decided) == 1
    assert scaled.decided[0].startswith("both should go from 1 to 2 pods")


@pytest.mark.parametrize("scaled", ["HPA"], indirect=True)
async def test_in_mode_hpa_only_zero_is_ours(scaled):
    await scaled.look(20, kv_usage=1.0, running=8)
    assert scaled.request == 1
    await scaled.look(310)
    assert scaled.request == 0
    await scaled.look(1, held=1)
    assert scaled.request == 1


@pytest.mark.parametrize("scaled", ["HPA"], indirect=True)
async def test_the_hpa_of_mode_hpa_is_ours_and_goes_with_the_mode(scaled):
    assert [one["metadata"]["name"] for one in scaled.run.api.all(AUTOSCALER)] == ["chat-both"]
    spec = {"autoscaling": {"mode": "Builtin"}}
    scaled.run.api.update(INFERENCE_SERVICE, "default", "chat", {"spec": spec})
    scaled.run.settle(3)
    assert scaled.run.api.all(AUTOSCALER) == []
    await scaled.look(3, kv_usage=1.0, running=8)
    assert scaled.request == 2


async def test_while_somebody_elses_hpa_writes_the_number_we_do_not(scaled):
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "mine", "namespace": "default"},
        "spec": {"scaleTargetRef": {"kind": "RoleScaler", "name": "chat-both"}},
    }
    scaled.run.api.post(hpa)
    await scaled.look(5, kv_usage=1.0, running=8)
    assert scaled.request == 1
    assert "HorizontalPodAutoscaler mine" in scaled.run.condition(scaled.key, "ScalingActive")["message"]
    scaled.run.api.remove(AUTOSCALER, "default", "mine")
    await scaled.look(3, kv_usage=1.0, running=8)
    assert scaled.request == 2


async def test_who_does_not_lead_looks_and_writes_nothing_and_then_knows_what_was_decided(scaled):
    await scaled.look(3, kv_usage=1.0, running=8)
    decisions = scaled.run.status(scaled.key)["autoscaling"]["lastDecisions"]
    scaled.run.may_write = False
    scaled.build()
    await scaled.look(10, kv_usage=1.0, running=8)
    assert scaled.request == 2
    await scaled.look(6, kv_usage=0.7, running=8)
    scaled.run.may_write = True
    await scaled.look(4, kv_usage=0.7, running=8)
    assert scaled.run.status(scaled.key)["autoscaling"]["lastDecisions"] == decisions


async def test_a_suspended_service_is_not_asked(scaled):
    await scaled.look(2)
    scaled.run.api.update(INFERENCE_SERVICE, "default", "chat", {"spec": {"suspend": True}})
    await scaled.look(1)
    before = scaled.teller.num_asked
    await scaled.look(3)
    assert scaled.teller.num_asked == before


async def test_who_is_to_go_is_asked_at_once_though_nothing_scales_it():
    async with fleet_teller(INTERNAL_PORT) as pod:
        run = OperatorRun()
        key = run.create()
        run.settle()
        names = [one["metadata"]["name"] for one in run.api.all(POD) if one["metadata"]["labels"][COMPONENT] != ROUTER]
        run.api.update(POD, "default", names[0], {"status": {"podIP": pod.address}})
        pod.endpoints = [FleetEndpoint(name=names[0], role="both", url="http://x", state="ready", running=3)]
        outlets = Outlets(decided=lambda service, decision: None, turned=lambda key: None)
        autoscaler = Autoscaler(
            run.store, run.api, outlets, seconds=60.0, may_write=lambda: True, clock=lambda: run.now
        )
        autoscaler.start()
        try:
            while autoscaler._at_work is None:
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(autoscaler.loads, key) == {}
            run.api.update(ROLE_SCALER, "default", "chat-both", {"spec": {"replicas": 1}})
            loads = await asyncio.to_thread(autoscaler.loads, key)
            assert [(load.pod, load.running) for load in loads.values()] == [(names[0], 3)]
        finally:
            await asyncio.to_thread(autoscaler.stop, 5.0)
        assert not autoscaler._thread.is_alive()
