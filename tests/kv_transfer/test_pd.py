"""Two real pods with the embedded model: what a client gets must be what one pod alone gives it."""

from __future__ import annotations

import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from support.serving import free_port, serving, wait_for

pytestmark = pytest.mark.slow
COMMON = ("--dtype", "float32", "--threads", "1", "--kv-cache-memory", "256MiB", "--block-size", "16")
LONG = "The mill stands by the river and the wheel turns slowly in the water. " * 60  # about 1,000 tokens
SHORT = "Once upon a time"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """A prefill pod, a decode pod, and a server that is alone; they load at once."""
    ports = [free_port() for _ in range(2)]
    words = {
        "prefill": ("--role", "prefill", "--internal-port", str(ports[0])),
        "decode": ("--role", "decode", "--internal-port", str(ports[1]), "--prefillers", f"localhost:{ports[0]}"),
        "both": (),
    }
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        contexts = [serving(tmp_path_factory.mktemp(role), *words[role], *COMMON) for role in words]
        running = list(threads.map(stack.enter_context, contexts))
        wait_for(lambda: "peer.up" in running[1].log.read_text(), what="the decode pod to know the prefill pod")
        yield running


@pytest.fixture
def pods(servers):
    return servers[:2]


@pytest.fixture
def alone(servers):
    return servers[2]


def complete(server, prompt, max_tokens=24):
    reply = server.post("/v1/completions", prompt=prompt, max_tokens=max_tokens, temperature=0)
    return reply["choices"][0]["text"]


def transfers(server):
    with urllib.request.urlopen(f"{server.url}/fleet", timeout=5) as reply:
        return json.load(reply)["endpoints"][0]["transfers"]


def moved(server, key, before):
    return lambda: transfers(server)[key] > before[key]


def test_a_long_prompt_is_prefilled_elsewhere_and_reads_the_same(pods, alone):
    before = transfers(pods[1])
    assert complete(pods[1], "1. " + LONG) == complete(alone, "1. " + LONG)
    wait_for(moved(pods[1], "bytes", before), 5)
    after = transfers(pods[1])
    assert after["count"] == before["count"] + 1
    assert after["bytes"] - before["bytes"] > 10_000_000
    assert (after["failed"], after["fallbacks"]) == (0, 0)


def test_what_a_peer_computed_is_not_called_cached(pods):
    def num_cached():
        reply = pods[1].post("/v1/completions", prompt="3. " + LONG, max_tokens=1, temperature=0)
        return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert num_cached() == 0
    assert num_cached() > 800


def test_a_short_prompt_stays_local(pods, alone):
    before = transfers(pods[1])
    assert complete(pods[1], SHORT) == complete(alone, SHORT)
    time.sleep(0.6)
    assert transfers(pods[1]) == before


def test_a_prefill_pod_that_is_killed_at_work_changes_nothing_for_the_client(pods, alone):
    expected = complete(alone, "2. " + LONG)
    before = transfers(pods[1])
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(complete, pods[1], "2. " + LONG)
        gauges = ("penstock_num_requests_running", "penstock_num_requests_waiting")
        wait_for(lambda: sum(map(pods[0].metric, gauges)) > 0, 30)
        pods[0].kill("penstock:engine-core")
        assert answer.result() == expected
    wait_for(moved(pods[1], "fallbacks", before), 5)
    assert transfers(pods[1])["failed"] == before["failed"] + 1
