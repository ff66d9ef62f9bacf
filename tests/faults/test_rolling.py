"""Every process of a service is restarted again and again, and no client notices."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time

import pytest

from support.fleet_client import ask
from support.fleet_program import Program
from support.fleet_requests import all_kinds, long_prompts, refer, with_key
from support.fleet_service import Service, running, status, until
from support.history import Asked, Heard, History

pytestmark = pytest.mark.faults
NUM_CLIENTS = 3


async def ask_any(service: Service, asked: Asked, urls: list[str]) -> Heard:
    """Ask a router that is ready, as a load balancer would: one that takes no connection is left out."""
    while True:
        for url in urls:
            heard = await ask(url, asked)
            if heard.status or "Refused" not in heard.trouble:
                return heard
        await asyncio.sleep(0.05)


async def watch_routers(service: Service, urls: list[str]) -> None:
    """Keep in `urls` the routers that say that they are ready."""
    while True:
        states = await asyncio.gather(*(asyncio.to_thread(status, url + "/readyz") for url in service.urls))
        urls[:] = [url for url, state in zip(service.urls, states, strict=True) if state == 200] or service.urls
        await asyncio.sleep(0.2)


async def be_busy(service: Service, history: History, urls: list[str], number: int) -> None:
    """A client that asks one thing after the other."""
    requests = [*long_prompts(4, max_tokens=24), *all_kinds(24)]
    for count in itertools.count(number * 5):
        asked = dataclasses.replace(requests[count % len(requests)], key=service.new_key())
        history.add(await ask_any(service, asked, urls))


async def restart(service: Service, program: Program) -> float:
    """SIGTERM; it ends by itself, is started again and takes part again."""
    began, num_exits = time.monotonic(), len(program.exits)
    program.terminate()
    await until(lambda: len(program.exits) > num_exits, 90, lambda: f"{program.name} to end:\n{program.said()[-3000:]}")
    assert program.exits[-1][1] == 0, f"{program.name} ended with {program.exits[-1][1]}:\n{program.said()[-3000:]}"
    await service.settle()
    return time.monotonic() - began


async def test_rolling_restarts_of_everything_under_load_fail_no_request(tmp_path, pytestconfig):
    num_rounds = pytestconfig.getoption("--rounds")
    with running(tmp_path, num_routers=2) as service:
        await refer(service, [*long_prompts(4, max_tokens=24), *all_kinds(24)])
        history, urls = service.references.begin(), list(service.urls)
        watcher = asyncio.create_task(watch_routers(service, urls))
        clients = [asyncio.create_task(be_busy(service, history, urls, n)) for n in range(NUM_CLIENTS)]
        began = time.monotonic()
        for number in range(num_rounds):
            took = [await restart(service, program) for program in service.programs]
            print(f"round {number + 1}: {[round(each, 1) for each in took]} s, {history.summary()}", flush=True)
            assert not history.problems(), history.problems()[:10]
        for task in (*clients, watcher):
            task.cancel()
        await asyncio.gather(*clients, watcher, return_exceptions=True)
        print(f"{num_rounds} rounds in {time.monotonic() - began:.0f} s: {history.summary()}")
        history.check()
        await service.check_quiet()


async def test_a_service_that_is_busy_ends_in_order(tmp_path):
    """SIGTERM to all pods at once: what runs is finished within the grace period, and all codes are 0."""
    with running(tmp_path) as service:
        requests = long_prompts(4)
        await refer(service, requests)
        history = service.references.begin()
        tasks = [asyncio.create_task(ask(service.url, asked)) for asked in with_key(requests, service.new_key())]
        await asyncio.sleep(1.5)
        for program in service.programs:
            program.is_wanted = False
            program.terminate()
        for heard in await asyncio.gather(*tasks):
            history.add(heard)
        await until(lambda: not any(program.is_alive for program in service.programs), 60, service.tails)
        assert [program.exit_code for program in service.programs] == [0] * len(service.programs)
        history.check()
