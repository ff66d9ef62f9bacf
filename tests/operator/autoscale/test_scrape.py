"""What a scrape makes of a real pod and a real router, of silence and of nonsense."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.internal.fleet import FleetEndpoint, RouterTotals
from penstock_operator.autoscale.scrape import Scraper
from penstock_operator.autoscale.signals import build_signals, loads_seen
from penstock_operator.names import HTTP_PORT, INTERNAL_PORT
from penstock_operator.observed.seen import PodSeen
from support.certificates import FIRST, FIRST_KEY
from support.fleet_teller import fleet_teller, own_address
from support.serving import environment, serving, wait_for

SERVE = ("--dtype", "float32", "--threads", "1", "--kv-cache-memory", "256MiB")


def pod(name: str, role: str, address: str, **given) -> PodSeen:
    values = {
        "uid": name,
        "revision": "r",
        "node": "n",
        "phase": "Running",
        "is_ready": True,
        "leaves_by": None,
        "created": 0.0,
        "drained_since": None,
        "deletion_cost": 0,
        "trouble": None,
    }
    return PodSeen(name=name, role=role, address=address, **values | given)


@contextmanager
def routing(folder: Path, *words: str) -> Iterator[None]:
    with (folder / "route.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "route", *words], stdout=output, stderr=output, env=environment()
        )
    try:
        wait_for(lambda: "Ready" in (folder / "route.log").read_text(), what="the router")
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def scraper():
    one = Scraper(time.time)
    yield one
    await one.close()


async def test_a_real_router_and_a_real_pod_tell_what_they_did(scraper, tmp_path):
    alone, front = own_address(), own_address()
    at = ("--internal-host", alone, "--internal-port", str(INTERNAL_PORT), "--pod-name", "chat-1")
    with serving(tmp_path, *SERVE, *at) as server:
        with routing(tmp_path, "--host", front, "--port", str(HTTP_PORT), "--decode", f"{alone}:{INTERNAL_PORT}"):
            pods = [pod("chat-1", "both", alone), pod("chat-router-1", "router", front)]
            server.post("/v1/completions", prompt="Water runs " * 60, max_tokens=3)
            for _ in range(100):
                scrape = await scraper.scrape(pods, has_tls=False)
                signals = build_signals(scrape, pods, ["both"])
                load = signals.roles["both"].pods.get("chat-1")
                if load is not None and load.output_tokens == 3:
                    break
                await asyncio.sleep(0.1)  # the router asks pods twice a second
            assert load is not None
            assert load.prompt_tokens >= 60
            assert load.output_tokens == 3
            assert load.prefill_rate
            assert (signals.has_router, signals.is_router_missing, signals.held) == (True, False, 0)
            assert signals.is_idle
        scrape = await scraper.scrape(pods, has_tls=False)  # the router is gone, so the pod is asked itself
        assert scrape.routers == {}
        assert loads_seen(scrape)["chat-1"].running == 0
        signals = build_signals(scrape, pods, ["both"])
        assert signals.roles["both"].pods["chat-1"].output_tokens == 3
        assert signals.is_router_missing
        assert not signals.is_idle


async def test_who_says_nothing_sensible_is_missing(scraper):
    async with fleet_teller(HTTP_PORT) as teller:
        teller.router = RouterTotals(in_flight=2)
        teller.endpoints = [
            FleetEndpoint(name="a", role="both", url="http://x", state="ready", running=1),
            FleetEndpoint(name="b", role="both", url="http://x", state="down", why="no answer"),
            FleetEndpoint(name="c", role="both", url="http://x", state="loading"),
            FleetEndpoint(name="d", role="both", url="http://x", state="draining", running=4),
        ]
        pods = [pod(name, "both", "10.0.0.1", is_ready=name != "c") for name in "abcd"]
        pods += [pod("e", "both", "", is_ready=False), pod("f", "both", "10.0.0.2", leaves_by=1.0)]
        pods += [pod("router-1", "router", teller.address), pod("router-2", "router", own_address())]
        scrape = await scraper.scrape(pods, has_tls=False)
        signals = build_signals(scrape, pods, ["both"])
        role = signals.roles["both"]
        assert list(role.pods) == ["a"]
        assert role.missing == ("b",)
        assert role.num_starting == 2  # c loads, e is nowhere yet; d and f are on their way out
        assert signals.is_router_missing
        assert loads_seen(scrape)["d"].running == 4


async def test_two_routers_know_more_than_one(scraper):
    async with fleet_teller(HTTP_PORT) as one, fleet_teller(HTTP_PORT) as other:
        one.router, other.router = RouterTotals(held=1, completed=3), RouterTotals(held=2, rejected=4)
        one.endpoints = [FleetEndpoint(name="a", role="both", url="http://x", state="down")]
        other.endpoints = [FleetEndpoint(name="a", role="both", url="http://x", state="ready", running=5)]
        pods = [pod("a", "both", "10.0.0.1"), pod("r1", "router", one.address), pod("r2", "router", other.address)]
        signals = build_signals(await scraper.scrape(pods, has_tls=False), pods, ["both"])
        assert (signals.held, signals.finished, signals.rejected) == (3, 3, 4)
        assert signals.roles["both"].pods["a"].running == 5


async def test_a_router_with_https_is_asked_so_whatever_name_its_certificate_has(scraper, tmp_path):
    (tmp_path / "crt").write_text(FIRST)
    (tmp_path / "key").write_text(FIRST_KEY)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    async with fleet_teller(HTTP_PORT, tls=context) as teller:
        teller.router = RouterTotals(held=3)
        pods = [pod("r1", "router", teller.address)]
        assert build_signals(await scraper.scrape(pods, has_tls=True), pods, ["both"]).held == 3
        assert (await scraper.scrape(pods, has_tls=False)).routers == {}
