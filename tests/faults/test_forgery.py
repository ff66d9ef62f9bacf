"""Whoever is between the pods, or plays one of them, gets no wrong token into any answer."""

from __future__ import annotations

import pytest

from support.fleet_proxy import Proxy
from support.fleet_requests import be_trusted, long_prompts, nothing, while_asked
from support.fleet_service import LOOPBACK, running, until
from support.serving import free_port

pytestmark = pytest.mark.faults
PROXY_PORT = free_port()


@pytest.fixture(scope="module")
def spied(tmp_path_factory):
    """One decode pod, whose way to the prefill pod leads through `PROXY_PORT`."""
    options = {"prefillers": [f"127.0.0.1:{PROXY_PORT}"], "decode_words": ("--kv-stall-seconds", "3")}
    with running(tmp_path_factory.mktemp("spied"), decode=(LOOPBACK,), **options) as service:
        yield service


@pytest.fixture
async def proxy(spied):
    """In order again, and trusted by the decode pod."""
    proxy = Proxy(spied.prefills[0].internal)
    await proxy.start(PROXY_PORT)
    yield proxy
    await proxy.close()


def flipped(at: int):
    def change(data: bytes, begin: int) -> bytes:
        place = at - begin
        return data if not 0 <= place < len(data) else data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


def cut(after: int):
    def change(data: bytes, begin: int) -> bytes | None:
        return data if begin + len(data) < after else None

    return change


CHANGES = {
    "a bit flipped in the first piece": flipped(40),
    "a bit flipped in a later piece": flipped(200),
    "cut off at once": cut(1),
    "cut off in the middle": cut(150),
    "every piece twice": lambda data, at: data + data,
    "only what comes first": lambda data, at: data if at == 0 else b"",
    "nothing": lambda data, at: b"",
}


@pytest.mark.parametrize("name", CHANGES)
async def test_an_answer_that_was_changed_on_its_way_makes_no_token_wrong(spied, proxy, name):
    await be_trusted(spied)
    failed = spied.transfers("failed")
    proxy.change = CHANGES[name]
    await while_asked(spied, long_prompts(2, sentences=24, max_tokens=24), nothing)
    assert spied.transfers("failed") > failed
    assert spied.transfers("fallbacks") >= spied.transfers("failed")
    proxy.change = lambda data, at: data


async def test_an_answer_that_was_recorded_is_of_no_use_later(spied, proxy):
    await be_trusted(spied)
    failed, recorded = spied.transfers("failed"), proxy.heard[-1]
    proxy.change = lambda data, at: recorded if at == 0 else b""
    await while_asked(spied, long_prompts(2, sentences=24, max_tokens=24), nothing)
    assert spied.transfers("failed") > failed


async def test_a_line_that_is_cut_while_blocks_move_heals(spied, proxy):
    await be_trusted(spied)

    num_calls = spied.prefills[0].num_prefills

    async def cut_line(tasks) -> None:
        await until(lambda: spied.prefills[0].num_prefills > num_calls, 30, "a call", pause=0.005)
        await proxy.close()

    await while_asked(spied, long_prompts(2, sentences=40, max_tokens=24), cut_line)
    await proxy.start(PROXY_PORT)
    await be_trusted(spied)
