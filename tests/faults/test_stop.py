"""SIGSTOP: a pod that says nothing is left alone within ten seconds, and is one of the service again afterwards."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from support.fleet_requests import all_kinds, be_trusted, long_prompts, while_asked
from support.fleet_service import until

pytestmark = pytest.mark.faults
STOPPED_SECONDS = 15.0
DETECTED_SECONDS = 10.0


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_no_client_waits_for_a_pod_that_is_stopped(service, role):
    pod = (service.prefills if role == "prefill" else service.decodes)[0]

    async def stop(tasks) -> None:
        if role == "prefill":
            await until(lambda: pod.num_prefills > num_calls, 30, "work", pause=0.005)
        else:
            await until(lambda: pod.load()["output_tokens"] > num_outputs + 50, 60, "streams", pause=0.02)
        pod.program.signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            took = await until(
                lambda: state_of(service, pod.name) == "down", DETECTED_SECONDS, f"{pod.name} to be down"
            )
            print(f"{pod.name} was found to be down after {took:.1f} s")
            await asyncio.sleep(STOPPED_SECONDS - (time.monotonic() - began))
        finally:
            pod.program.signal(signal.SIGCONT)

    await be_trusted(service)
    num_calls, num_outputs = pod.metrics().get("penstock_prefill_calls_total", 0), pod.load()["output_tokens"]
    requests = long_prompts(8) if role == "prefill" else [*all_kinds(), *long_prompts(2)]
    history = await while_asked(service, requests, stop)
    print(history.summary())
    assert max(heard.longest_gap for heard in history.all) < DETECTED_SECONDS + 2


def state_of(service, name: str) -> str:
    return next(endpoint["state"] for endpoint in service.fleet()["endpoints"] if endpoint["name"] == name)
