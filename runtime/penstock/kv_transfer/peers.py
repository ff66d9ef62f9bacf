"""The prefill pods that a decode pod may ask: found by name, polled, and met once per life of their engine."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import msgspec

from penstock.internal.credentials import Caller, ClusterKeys, query_claims
from penstock.internal.protocol import KV_PATH, LOAD_PATH, KvEndpoint, Load
from penstock.kv_transfer.peer import Peer, PeerState, PeerView
from penstock.logs import event

POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0  # later than this is no answer …
MISSES = 2  # … and so many in a row mean that the peer is down
RESOLVE_SECONDS = 5.0
KEEP_SECONDS = 60.0  # how long an address is polled that only a request named, or that a name has lost
FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0  # seconds after a meeting that failed
LONGEST_ANSWER = 1 << 20  # bytes

_log = logging.getLogger(__name__)


class Refused(Exception):
    """The peer answers, but must not be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a peer must be like, and where to look."""

    addresses: tuple[str, ...]  # host:port
    fingerprint: str
    revision: str
    poll_seconds: float = POLL_SECONDS
    answer_seconds: float = ANSWER_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEvents:
    """What others want to hear."""

    meet: Callable[[int, KvEndpoint], None]
    leave: Callable[[int], None]
    lost: Callable[[int, str, bool], None]  # (peer, why, its engine died)
    changed: Callable[[], None]  # `Peers.views` is new


class Peers:
    """All addresses, each polled by a task of its own."""

    def __init__(
        self,
        wanted: Wanted,
        keys: ClusterKeys,
        http: aiohttp.ClientSession,
        events: PeerEvents,
        clock: Callable[[], float],
    ) -> None:
        self._wanted, self._keys, self._http, self._events, self._clock = wanted, keys, http, events, clock
        self._peers: dict[str, Peer] = {}  # by address
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._nameless: set[str] = set()  # names that have no address at present
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Look for addresses, for ever."""
        try:
            while True:
                for name in self._wanted.addresses:
                    await self._resolve(name)
                await asyncio.sleep(RESOLVE_SECONDS)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def views(self) -> tuple[PeerView, ...]:
        """The peers that can be asked."""
        return tuple(view for peer in self._peers.values() if (view := peer.view) is not None)

    def get(self, number: int) -> Peer | None:
        """The peer that has that number now."""
        return next((peer for peer in self._peers.values() if peer.number == number), None)

    async def named(self, name: str) -> Peer:
        """A peer that somebody named, once it is up. Raises `Refused`; the caller sets the time limit."""
        addresses = await self._resolve(name, until=self._clock() + KEEP_SECONDS)
        while True:
            peers = [self._peers[address] for address in addresses if address in self._peers]
            for peer in peers:
                if peer.view is not None:
                    return peer
            if all(peer.state in (PeerState.REFUSED, PeerState.DOWN) for peer in peers):
                raise Refused("; ".join(peer.why for peer in peers) or f"{name} has no address")
            await asyncio.sleep(0.02)

    def met(self, number: int, why: str) -> None:
        """Our worker knows the peer now, or (`why`) could not get to know it."""
        if (peer := self.get(number)) is None:
            return
        if why:
            peer.num_meetings_failed += 1
            pause = min(LONGEST_RETRY, FIRST_RETRY * 2 ** (peer.num_meetings_failed - 1))
            peer.retry_at = self._clock() + pause
            self._lose(peer, PeerState.DOWN, f"its memory cannot be reached: {why}")
        else:
            peer.num_meetings_failed = 0
            self._enter(peer, PeerState.UP, "")

    async def _resolve(self, name: str, until: float = float("inf")) -> list[str]:
        """Begin to poll the addresses of `host:port`; forget those that it does not have any more."""
        host, _, port = name.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except (OSError, ValueError) as error:
            if name not in self._nameless:
                self._nameless.add(name)
                event(_log, "peer.unknown", level=logging.WARNING, address=name, why=error)
            return [peer.address for peer in self._peers.values() if name in peer.names]
        self._nameless.discard(name)
        addresses = [address_of(str(at[0]), int(at[1])) for *_, at in found]
        for peer in self._peers.values():
            if name in peer.names and peer.address not in addresses:
                peer.names.discard(name)
                if not peer.names:
                    peer.wanted_until = self._clock() + KEEP_SECONDS
        for address in addresses:
            if address not in self._peers:
                peer = Peer(address=address, names=set(), caller=Caller(self._keys), wanted_until=until)
                self._peers[address] = peer
                self._tasks[address] = asyncio.create_task(self._poll(peer))
            self._peers[address].names.add(name)
            self._peers[address].wanted_until = max(self._peers[address].wanted_until, until)
        return addresses

    async def _poll(self, peer: Peer) -> None:
        """Ask one peer again and again, while anybody wants it."""
        while self._clock() <= peer.wanted_until:
            began = self._clock()
            try:
                async with asyncio.timeout(self._wanted.answer_seconds):
                    load = msgspec.json.decode((await self._get(peer, LOAD_PATH))[0], type=Load)
                await self._take(peer, load)
            except Refused as error:
                self._lose(peer, PeerState.REFUSED, str(error))
            except aiohttp.ClientConnectorError as error:
                is_refused = error.os_error.errno == errno.ECONNREFUSED
                self._miss(peer, f"no connection: {error.os_error.strerror}", is_refused=is_refused)
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
                self._miss(peer, f"no answer ({type(error).__name__})")
            await asyncio.sleep(max(0.0, began + self._wanted.poll_seconds - self._clock()))
        self._lose(peer, PeerState.DOWN, "nobody names its address any more")
        del self._peers[peer.address], self._tasks[peer.address]

    def _miss(self, peer: Peer, why: str, *, is_refused: bool = False) -> None:
        """It did not answer: once may be chance, but where nobody listens nobody is."""
        peer.num_missed += 1
        if is_refused or peer.num_missed >= MISSES:
            self._lose(peer, PeerState.DOWN, why, is_death=is_refused)

    async def _take(self, peer: Peer, load: Load) -> None:
        """What a peer said of itself."""
        now = self._clock()
        peer.num_missed = 0
        peer.caller.learn(load.session, load.now, now)
        self._check(peer, load)
        if peer.endpoint is not None and peer.endpoint.session != load.session:
            self._lose(peer, PeerState.DOWN, "its engine began anew", is_death=True)
        elif peer.endpoint is not None and not load.ready and not load.draining:
            self._lose(peer, PeerState.DOWN, "its engine died", is_death=True)
        peer.load = load
        if peer.number is None and load.ready and now >= peer.retry_at:
            await self._meet(peer, load)
        self._events.changed()

    def _check(self, peer: Peer, load: Load) -> None:
        """Raise `Refused` for a pod that does not belong with this one."""
        if load.role != "prefill":
            raise Refused(f"its role is {load.role}, not prefill")
        if load.revision != self._wanted.revision:
            raise Refused(f"its revision is {load.revision!r}, ours {self._wanted.revision!r}")
        if load.ready and load.fingerprint != self._wanted.fingerprint:
            raise Refused(
                f"its fingerprint is {load.fingerprint}, ours {self._wanted.fingerprint}: another model or layout"
            )
        for other in self._peers.values():
            same_name = other is not peer and other.load is not None and other.load.name == load.name
            if same_name and other.state in (PeerState.UP, PeerState.MEETING):
                raise Refused(f"its name, {load.name}, is that of {other.address}")

    async def _meet(self, peer: Peer, load: Load) -> None:
        """Fetch where its blocks are, and have our worker get to know it."""
        claims = query_claims(KV_PATH)
        async with asyncio.timeout(self._wanted.answer_seconds):
            data, mac = await self._get(peer, KV_PATH, claims.nonce, self._keys.sign(claims))
        if self._keys.is_set and not self._keys.is_mac(mac, claims.nonce, 0, data):
            raise Refused("its answer was not made with our key")
        endpoint = msgspec.msgpack.decode(data, type=KvEndpoint)
        if (endpoint.session, endpoint.fingerprint) != (load.session, load.fingerprint):
            return  # a new life began between the two answers
        peer.number, peer.endpoint = next(self._numbers), endpoint
        self._enter(peer, PeerState.MEETING, "")
        self._events.meet(peer.number, endpoint)

    async def _get(self, peer: Peer, path: str, nonce: bytes = b"", token: str = "") -> tuple[bytes, bytes]:
        """Body and mac of an answer. Raises `Refused` for the wrong key, and what aiohttp raises."""
        headers = {"Authorization": token or self._keys.sign(query_claims(path))}
        async with self._http.get(peer.url + path, headers=headers) as response:
            if response.status in (401, 403):
                raise Refused("it does not take our key")
            response.raise_for_status()
            data = b""
            async for piece in response.content.iter_chunked(1 << 16):
                data += piece
                if len(data) > LONGEST_ANSWER:
                    raise Refused("its answer is too long")
            try:
                return data, bytes.fromhex(response.headers.get("X-Penstock-Mac", ""))
            except ValueError:
                return data, b""

    def _lose(self, peer: Peer, state: PeerState, why: str, *, is_death: bool = False) -> None:
        """It cannot be used any more; what it was at ends."""
        number, peer.number, peer.endpoint = peer.number, None, None
        self._enter(peer, state, why)
        if number is not None:
            self._events.lost(number, why, is_death)
            self._events.leave(number)

    def _enter(self, peer: Peer, state: PeerState, why: str) -> None:
        is_new = (peer.state, peer.why) != (state, why)
        peer.state, peer.why = state, why
        if is_new and state is not PeerState.MEETING:
            level = logging.INFO if state is PeerState.UP else logging.WARNING
            name = peer.load.name if peer.load is not None else ""
            fields = {"why": why} if why else {}
            event(_log, f"peer.{state.value}", level=level, address=peer.address, pod=name, **fields)
        self._events.changed()


def address_of(ip: str, port: int) -> str:
    """As it stands in a URL."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
