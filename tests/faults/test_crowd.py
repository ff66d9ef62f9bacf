"""Many clients: more than can be served, too slow to listen, gone at once."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from support.fleet_client import ask
from support.fleet_requests import STREAM, TOPICS, be_trusted, long_prompts, notes_about, refer, with_key
from support.fleet_service import Service, running, until
from support.history import Answer, Asked, Heard

pytestmark = pytest.mark.faults
GROWTH = 150 << 20  # bytes that a process may grow by under any crowd


def short_prompts(count: int, max_tokens: int, **extra) -> list[Asked]:
    body = STREAM | {"max_tokens": max_tokens, "ignore_eos": True} | extra
    names = [(TOPICS * (1 + count // len(TOPICS)))[n] for n in range(count)]
    return [
        Asked(name=f"short-{topic}-{max_tokens}-{sorted(extra)}", body=body | {"prompt": notes_about(topic, 0)})
        for topic in names
    ]


def memory_of(service: Service) -> dict[str, int]:
    """Resident bytes of every process, workers left out: their KV cache is written to bit by bit."""
    sizes = {}
    for program in service.programs:
        for process in program.processes():
            title = " ".join(process.cmdline())
            if "worker" not in title:
                sizes[f"{program.name} {title} {process.pid}"] = process.memory_info().rss
    return sizes


def growth(before: dict[str, int], after: dict[str, int]) -> int:
    return max(size - before.get(name, size) for name, size in after.items())


async def offer(service: Service, requests: list[Asked], rate: float) -> tuple[list[Heard], float]:
    """Open loop: each request starts when its time has come. Returns tokens/s of what was answered well, too."""
    began = time.monotonic()
    tasks = []
    for number, asked in enumerate(requests):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(ask(service.url, asked)))
    heard = await asyncio.gather(*tasks)
    good = sum(Answer(each).num_tokens for each in heard if each.status == 200)
    last = max((each.ended for each in heard if each.status == 200), default=began)
    return heard, good / (last - began)


async def test_ten_times_too_much_is_refused_and_the_rest_is_served_as_well(tmp_path):
    words = ("--queue-seconds", "6", "--max-held", "200")
    with running(tmp_path, router_words=words, pod_words=("--max-num-seqs", "16")) as service:
        requests = [dataclasses.replace(asked, may_be_refused=True) for asked in short_prompts(2000, 24)]
        await refer(service, requests)
        peaks = []
        for rate in (4.0, 8.0, 16.0):
            heard, goodput = await offer(service, with_key(requests[: int(rate * 12)], service.new_key()), rate)
            served = sum(each.status == 200 for each in heard)
            peaks.append((goodput, served / (max(each.ended for each in heard) - heard[0].began)))
        peak, served_rate = max(peaks)
        before = await asyncio.to_thread(memory_of, service)
        rate = 10 * served_rate
        heard, goodput = await offer(service, with_key(requests[: int(rate * 15)], service.new_key()), rate)
        after = await asyncio.to_thread(memory_of, service)
        history = service.references.begin()
        for each in heard:
            history.add(each)
        print(f"peak {peak:.0f} tokens/s; at {rate:.0f} requests/s {goodput:.0f}; {history.summary()}")
        print(f"largest growth {growth(before, after) >> 20} MiB")
        history.check()
        assert any(each.is_refusal for each in heard)
        assert goodput >= 0.9 * peak
        assert growth(before, after) < GROWTH
        await service.check_quiet(60)


async def test_five_hundred_slow_readers_get_all_and_hold_nobody_up(service):
    fast = long_prompts(4)
    slow = [dataclasses.replace(each, pause=0.25) for each in short_prompts(500, 12, logprobs=5)]
    await refer(service, [*fast, *slow])
    history, before = service.references.begin(), await asyncio.to_thread(memory_of, service)
    tasks = [asyncio.create_task(ask(service.url, asked)) for asked in with_key(slow, service.new_key())]
    await asyncio.sleep(3)
    for heard in await asyncio.gather(*(ask(service.url, asked) for asked in with_key(fast, service.new_key()))):
        history.add(heard)
    assert not all(task.done() for task in tasks)
    after = await asyncio.to_thread(memory_of, service)
    for heard in await asyncio.gather(*tasks):
        history.add(heard)
    print(history.summary(), f"largest growth {growth(before, after) >> 20} MiB")
    history.check()
    assert growth(before, after) < GROWTH
    await service.check_quiet()


async def test_nine_hundred_of_a_thousand_clients_vanish_and_their_blocks_are_back_within_a_second(service):
    await be_trusted(service)
    stay, go = short_prompts(100, 24), [*short_prompts(800, 200), *long_prompts(100, max_tokens=100)]
    await refer(service, stay)
    history, leave = service.references.begin(), asyncio.Event()
    staying = [asyncio.create_task(ask(service.url, asked)) for asked in with_key(stay, service.new_key())]
    going = [asyncio.create_task(ask(service.url, asked, leave=leave)) for asked in with_key(go, service.new_key())]
    await asyncio.sleep(8)
    num_gone = sum(not task.done() for task in going)
    assert num_gone > 850, f"{num_gone} are still there"
    leave.set()
    await asyncio.gather(*going)
    took = await until(lambda: num_requests(service) <= len(stay), 10, lambda: str(service.fleet()), pause=0.02)
    print(f"{num_gone} clients gone, their requests after {took:.2f} s; {num_requests(service)} left")
    for heard in await asyncio.gather(*staying):
        history.add(heard)
    history.check()
    assert took < 1.0
    await service.check_quiet()


def num_requests(service: Service) -> int:
    loads = [pod.load() for pod in service.decodes]
    return sum(load["running"] + load["waiting"] for load in loads)
