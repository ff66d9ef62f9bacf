"""Pods in network namespaces: what lies between them is cut, cut one way, flaps or crawls, and heals by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal

import pytest

from support.fleet_network import network
from support.fleet_requests import be_trusted, long_prompts, nothing, while_asked
from support.fleet_service import running, until

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]
STALL = ("--kv-stall-seconds", "3")
FULL_MEGABITS = 2000.0  # what NIXL reaches by TCP on one machine
KINDS = ("both ways", "towards the decode pod", "towards the prefill pod", "flapping")


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A prefill pod and a decode pod in namespaces of their own, with NIXL over TCP."""
    with network("a") as net:
        places = {"prefill": (net.add_place(),), "decode": (net.add_place(),)}
        folder, settings = tmp_path_factory.mktemp("apart"), {"UCX_TLS": "tcp"}
        with running(folder, **places, settings=settings, decode_words=STALL) as service:
            yield service, net


def cut(net, kind: str) -> None:
    prefill, decode = net.places
    if kind != "towards the prefill pod":
        net.cut(prefill, decode)
    if kind != "towards the decode pod":
        net.cut(decode, prefill)


def heal(net, kind: str) -> None:
    prefill, decode = net.places
    if kind != "towards the prefill pod":
        net.heal(prefill, decode)
    if kind != "towards the decode pod":
        net.heal(decode, prefill)


async def test_blocks_move_between_namespaces(apart):
    service, _ = apart
    before = service.transfers("bytes")
    await be_trusted(service)
    assert service.transfers("bytes") > before + 5_000_000


@pytest.mark.parametrize("kind", KINDS)
async def test_a_partition_costs_no_answer_and_heals_without_a_restart(apart, kind):
    service, net = apart
    await be_trusted(service)
    num_calls = service.prefills[0].num_prefills

    async def part(tasks) -> None:
        await until(lambda: service.prefills[0].num_prefills > num_calls, 30, "a call", pause=0.005)
        for _ in range(5 if kind == "flapping" else 1):
            cut(net, kind)
            try:
                await asyncio.sleep(1.2 if kind == "flapping" else 12)
            finally:
                heal(net, kind)
            await asyncio.sleep(0.6)

    await while_asked(service, long_prompts(6), part)
    await be_trusted(service)
    assert not any(program.exits for program in service.programs)


async def test_a_hundredth_of_the_bandwidth_changes_no_answer(apart):
    service, net = apart
    await be_trusted(service)
    net.slow(net.places[0], FULL_MEGABITS / 100)
    try:
        history = await while_asked(service, long_prompts(4), nothing)
        print(history.summary(), service.decodes[0].load()["transfers"])
    finally:
        net.slow(net.places[0], 10 * FULL_MEGABITS)
    await be_trusted(service)
    assert not any(program.exits for program in service.programs)


async def test_a_peer_that_is_stopped_while_its_blocks_are_read_by_tcp_is_left(apart):
    service, _ = apart
    [prefill] = service.prefills
    await be_trusted(service)
    num_calls = prefill.num_prefills

    async def stop(tasks) -> None:
        await until(lambda: prefill.num_prefills > num_calls, 30, "a call", pause=0.005)
        prefill.program.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(15)
        finally:
            prefill.program.signal(signal.SIGCONT)

    await while_asked(service, long_prompts(4), stop)
    await be_trusted(service)
