"""kill -9, of whole pods and of single processes: no client notices."""

from __future__ import annotations

import asyncio
import signal

import pytest

from support.fleet_requests import all_kinds, be_trusted, long_prompts, nothing, while_asked
from support.fleet_service import Service, until

pytestmark = pytest.mark.faults


def num_answered(service: Service) -> int:
    """Tokens that the decode pods have generated."""
    return sum(pod.load()["output_tokens"] for pod in service.decodes)


async def until_streaming(service: Service, tokens: int) -> None:
    """Wait until the pods have generated that many tokens from now on."""
    before = await asyncio.to_thread(num_answered, service)
    await until(lambda: num_answered(service) >= before + tokens, 60, "streams", pause=0.02)


@pytest.mark.parametrize("moment", ["before", "during", "after"])
async def test_killing_the_prefill_pod_changes_no_answer(service, moment):
    [prefill] = service.prefills

    async def kill(tasks) -> None:
        if moment == "during":
            await until(lambda: prefill.num_prefills > num_calls, 30, "a call", pause=0.005)
        elif moment == "after":
            await until(lambda: service.transfers("count") > before, 60, "a transfer", pause=0.01)
        prefill.program.signal(signal.SIGKILL)

    await be_trusted(service)
    before, num_calls = service.transfers("count"), prefill.num_prefills
    requests = long_prompts(6)
    if moment == "before":
        await kill([])
        await while_asked(service, requests, nothing)
    else:
        await while_asked(service, requests, kill)
    assert prefill.program.exits


async def test_killing_a_decode_pod_mid_stream_changes_no_answer(service):
    requests = [*all_kinds(), *long_prompts(2)]

    async def kill(tasks) -> None:
        await until_streaming(service, 200)
        service.decodes[0].program.signal(signal.SIGKILL)

    await while_asked(service, requests, kill)
    assert service.decodes[0].program.exits


@pytest.mark.parametrize("title", ["penstock:engine-core", "penstock:api-0", "penstock:worker-0"])
@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_killing_one_process_of_a_pod_changes_no_answer(service, role, title):
    pod = (service.prefills if role == "prefill" else service.decodes)[0]
    requests = [*all_kinds(), *long_prompts(2)] if role == "decode" else long_prompts(6)
    await be_trusted(service)
    num_calls = pod.num_prefills if role == "prefill" else 0

    async def kill(tasks) -> None:
        if role == "prefill":
            await until(lambda: pod.num_prefills > num_calls, 30, "work", pause=0.005)
        else:
            await until_streaming(service, 200)
        assert pod.program.signal(signal.SIGKILL, title)

    await while_asked(service, requests, kill)
