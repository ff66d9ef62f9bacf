from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import aiohttp
import pytest

from penstock.internal.credentials import ClusterKeys
from penstock.kv_transfer import peers as peers_module
from penstock.kv_transfer.peer import PeerState
from penstock.kv_transfer.peers import PeerEvents, Peers, Refused, Wanted
from support.scripted_peer import FINGERPRINT, scripted_peer

SECONDS = 8
POLL, ANSWER = 0.1, 0.6
KEY, OTHER_KEY = b"0123456789abcdef", b"fedcba9876543210"


class Watch:
    """A pod's peers, and what it was told of them. Its worker gets to know every peer at once."""

    def __init__(self, *addresses, keys=None, revision="", problem="") -> None:
        self.events, self.problem = [], problem
        self.wanted = Wanted(
            addresses=addresses,
            fingerprint=FINGERPRINT,
            revision=revision,
            poll_seconds=POLL,
            answer_seconds=ANSWER,
        )
        self.keys = keys or ClusterKeys(None)

    @asynccontextmanager
    async def running(self):
        events = PeerEvents(
            meet=lambda number, endpoint: self.meet(number),
            leave=lambda number: self.events.append(("leave", number)),
            lost=lambda number, why, is_death: self.events.append(("lost", number, is_death)),
            changed=lambda: None,
        )
        async with aiohttp.ClientSession() as http:
            self.peers = Peers(self.wanted, self.keys, http, events, time.monotonic)
            task = asyncio.create_task(self.peers.run())
            try:
                yield self
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await asyncio.sleep(0)

    def meet(self, number) -> None:
        self.events.append(("meet", number))
        asyncio.get_running_loop().call_soon(self.peers.met, number, self.problem)

    @property
    def numbers(self):
        return [view.peer for view in self.peers.views()]

    def why(self) -> str:
        return "; ".join(peer.why for peer in self.peers._peers.values() if peer.state is PeerState.REFUSED)

    async def until(self, condition) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.01)


async def test_a_peer_is_met_once_and_can_be_asked():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        peer.fields = {"queued_tokens": 700, "prefill_rate": None}
        await watch.until(lambda: watch.peers.views()[0].num_queued == 700)
        [view] = watch.peers.views()
        assert (view.peer, view.rate, view.bytes_per_second) == (1, 0.0, 0.0)
        assert peer.address in view.names
        assert watch.events == [("meet", 1)]
        watch.peers.get(1).moved(2_000_000, 0.001)
        assert watch.peers.views()[0].bytes_per_second == pytest.approx(2e9)


async def test_a_peer_that_comes_later_is_found():
    async with scripted_peer() as peer:
        await peer.stop()
        async with Watch(peer.address).running() as watch:
            await watch.until(lambda: watch.peers._peers)
            await asyncio.sleep(0.2)
            assert watch.numbers == []
            await peer.start()
            await watch.until(lambda: watch.numbers == [1])


async def test_a_peer_whose_port_refuses_connections_is_lost_at_once():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        began = time.monotonic()
        await peer.die()
        await watch.until(lambda: ("leave", 1) in watch.events)
        assert time.monotonic() - began < ANSWER
        assert watch.events == [("meet", 1), ("lost", 1, True), ("leave", 1)]
        assert watch.numbers == []
        await peer.start()
        await watch.until(lambda: watch.numbers == [2])


async def test_a_peer_that_says_nothing_is_lost_after_two_polls_and_is_not_taken_for_dead():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        began = time.monotonic()
        peer.is_hanging = True
        await watch.until(lambda: ("lost", 1, False) in watch.events)
        assert 2 * ANSWER < time.monotonic() - began < 6 * ANSWER
        peer.is_hanging = False
        await watch.until(lambda: watch.numbers == [2])


async def test_one_late_answer_is_forgiven():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        peer.is_hanging = True
        await asyncio.sleep(2 * POLL)
        peer.is_hanging = False
        await asyncio.sleep(2 * ANSWER)
        assert watch.events == [("meet", 1)]


async def test_a_new_life_of_its_engine_is_another_peer():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        peer.fields = {"session": "s2"}
        await watch.until(lambda: watch.numbers == [2])
        assert watch.events == [("meet", 1), ("lost", 1, True), ("leave", 1), ("meet", 2)]


async def test_a_peer_that_drains_is_not_asked_but_kept():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        peer.fields = {"draining": True, "ready": False}
        await watch.until(lambda: not watch.numbers)
        peer.fields = {}
        await watch.until(lambda: watch.numbers)
        assert watch.events == [("meet", 1)]


async def test_a_peer_whose_engine_died_is_lost_before_the_next_one_is_there():
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        await watch.until(lambda: watch.numbers)
        peer.fields = {"ready": False}
        await watch.until(lambda: watch.events[1:] == [("lost", 1, True), ("leave", 1)])
        peer.fields = {"session": "s2"}
        await watch.until(lambda: watch.numbers == [2])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"role": "decode"}, "its role is decode"),
        ({"revision": "v2"}, "its revision is 'v2', ours ''"),
        ({"fingerprint": "0" * 32}, "its fingerprint is 000"),
    ],
    ids=lambda value: str(value),
)
async def test_a_pod_that_does_not_belong_here_is_refused_until_it_does(fields, why, caplog):
    async with scripted_peer() as peer, Watch(peer.address).running() as watch:
        peer.fields = fields
        await watch.until(watch.why)
        assert why in watch.why()
        assert watch.numbers == []
        await asyncio.sleep(3 * POLL)
        lines = [record.message for record in caplog.records if "peer.refused" in record.message]
        assert len(lines) == 1, "one line, not one for each poll"
        peer.fields = {}
        await watch.until(lambda: watch.numbers)


async def test_a_second_pod_of_one_name_is_refused():
    async with scripted_peer() as one, scripted_peer() as two, Watch(one.address, two.address).running() as watch:
        await watch.until(lambda: watch.numbers and watch.why())
        assert "its name, p-0, is that of 127.0.0.1:" in watch.why()
        assert len(watch.numbers) == 1


async def test_keys_that_differ_are_refused_and_equal_ones_are_not(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(KEY)
    theirs.write_bytes(OTHER_KEY)
    async with (
        scripted_peer(keys=ClusterKeys(theirs)) as peer,
        Watch(peer.address, keys=ClusterKeys(ours)).running() as watch,
    ):
        await watch.until(watch.why)
        assert watch.why() == "it does not take our key"
        theirs.write_bytes(OTHER_KEY + b"\n" + KEY)
        ours.write_bytes(KEY + b"\n" + OTHER_KEY)
        await watch.until(lambda: watch.numbers)


async def test_an_address_of_blocks_that_was_not_made_with_our_key_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_bytes(KEY)
    async with (
        scripted_peer(keys=ClusterKeys(file)) as peer,
        Watch(peer.address, keys=ClusterKeys(file)).running() as w,
    ):
        monkeypatch.setattr(peer.keys, "mac", lambda *_: b"x" * 16)
        await w.until(w.why)
        assert w.why() == "its answer was not made with our key"


async def test_a_worker_that_cannot_reach_its_memory_tries_again_less_and_less_often():
    async with scripted_peer() as peer, Watch(peer.address, problem="no route").running() as watch:
        await watch.until(lambda: watch.events.count(("meet", 2)))
        assert watch.numbers == []
        watch.problem = ""
        await watch.until(lambda: watch.numbers)


async def test_a_pod_that_somebody_names_is_found_or_refused():
    async with scripted_peer() as peer, Watch().running() as watch:
        async with asyncio.timeout(SECONDS):
            assert (await watch.peers.named(peer.address)).number == 1
            await peer.die()
            await watch.until(lambda: not watch.numbers)
            with pytest.raises(Refused, match="no connection"):
                await watch.peers.named(peer.address)
            with pytest.raises(Refused, match="no address"):
                await watch.peers.named("nobody.invalid:1")


async def test_a_name_without_an_address_is_said_once_and_looked_up_again(monkeypatch, caplog):
    monkeypatch.setattr(peers_module, "RESOLVE_SECONDS", 0.05)
    async with scripted_peer() as peer, Watch(f"p.invalid:{peer.port}").running() as watch:
        await asyncio.sleep(0.5)
        lines = [record.message for record in caplog.records if "peer.unknown" in record.message]
        assert len(lines) == 1
        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", lambda host, *rest, **options: real("127.0.0.1", *rest, **options))
        await watch.until(lambda: watch.numbers)


async def test_an_address_that_its_name_has_lost_is_asked_no_more(monkeypatch):
    monkeypatch.setattr(peers_module, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(peers_module, "KEEP_SECONDS", 0.5)
    async with scripted_peer() as one, scripted_peer() as two, Watch(f"localhost:{one.port}").running() as watch:
        two.fields = {"name": "p-1"}
        await watch.until(lambda: watch.numbers)
        loop = asyncio.get_running_loop()
        found = [(2, 1, 6, "", ("127.0.0.1", two.port))]
        monkeypatch.setattr(loop, "getaddrinfo", lambda *_, **__: asyncio.sleep(0, found))
        await watch.until(lambda: watch.numbers == [2])
        assert ("lost", 1, False) not in watch.events, "what it is at goes on for a while"
        await watch.until(lambda: ("lost", 1, False) in watch.events)


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff" * 100, b"[1]", b'{"name": 3}', b"x" * (2 << 20)], ids=len)
async def test_junk_for_an_answer_is_no_answer(junk):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(junk) + junk)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Watch(f"127.0.0.1:{port}").running() as watch:
        await watch.until(
            lambda: any(p.state in (PeerState.DOWN, PeerState.REFUSED) for p in watch.peers._peers.values())
        )
        assert watch.numbers == []
