"""Joins the calls to peers, the worker's transfer thread and the front-ends; lives on the event loop of the link."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import aiohttp
import numpy as np

from penstock.core.plan import Ints
from penstock.core.request import RequestKey
from penstock.errors import PenstockError
from penstock.internal.credentials import ClusterKeys
from penstock.internal.protocol import RENEW_PATH, Announcement, Computed, KvEndpoint, PrefillCall, Renewal
from penstock.kv_transfer import messages
from penstock.kv_transfer.announcer import Announcer
from penstock.kv_transfer.front_end_messages import LendNews, Strike
from penstock.kv_transfer.front_ends import FrontEnds
from penstock.kv_transfer.lender import News
from penstock.kv_transfer.messages import TransferInput, TransferOutput
from penstock.kv_transfer.peer import Peer, PeerView
from penstock.kv_transfer.peers import PeerEvents, Peers, Refused, Wanted
from penstock.kv_transfer.prefill_call import CallLost, call_prefill
from penstock.kv_transfer.puller import Action, CloseArrival, EndArrival, GiveLeaseBack, HangUp, Puller, StartPull
from penstock.kv_transfer.worker_line import WorkerLine
from penstock.logs import event
from penstock.wire import encode

TICK_SECONDS = 0.1
PATIENCE = (2.0, 4.0)  # times the stall time
RENEW_SECONDS = 2.0  # what a renewal may take
SUSPICION_SECONDS = 3.0  # a peer that dies so soon after a transfer failed was dying then

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchboardSetup:
    """What it is told at its start."""

    epoch: int  # of the engine core
    wanted: Wanted | None  # None: no peers are asked
    stall_seconds: float
    checksums: float  # share of the announced blocks
    client_address: Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A fetch that the step loop wants."""

    number: int  # of the arrival
    key: RequestKey
    peer: int  # of a `PeerView` …
    address: str  # … or, if 0, the pod that somebody named
    call: PrefillCall
    blocks: list[int]  # where it goes
    predicted: float  # seconds that it should take; 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event for the step loop."""

    at: float
    what: EndArrival | CloseArrival | messages.LeaseReturned | messages.Fetched | messages.Stored


class Switchboard:
    """Everything here runs on one event loop; the attributes without underscore may be read by other threads."""

    def __init__(
        self,
        setup: SwitchboardSetup,
        keys: ClusterKeys,
        line: WorkerLine,
        *,
        random: Random,
        clock: Callable[[], float],
        post: Callable[[Happened], None],
    ) -> None:
        self.views: tuple[PeerView, ...] = ()
        self.num_announced: dict[int, int] = {}  # arrival -> blocks
        self.num_pulled_bytes = 0
        self._setup, self._keys, self._line, self._clock, self._post = setup, keys, line, clock, post
        self._puller = Puller(setup.stall_seconds)
        self._front_ends = FrontEnds(setup.client_address)
        self._announcer = Announcer(setup.checksums, random, ask=line.send, tell=self._tell)
        self._http: aiohttp.ClientSession | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._peers: Peers | None = None
        self._orders: dict[int, Order] = {}
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._pulling: dict[int, int] = {}  # pull -> peer
        self._suspects: list[tuple[float, int, RequestKey]] = []  # (until, peer, request)

    async def serve(self, opened: Callable[[], None]) -> None:
        """Work until cancelled; calls `opened` when the other methods may be called.

        Raises `PenstockError` if the worker's transfer thread ends.
        """
        await self._line.open()
        connector = aiohttp.TCPConnector(limit=0)
        try:
            async with aiohttp.ClientSession(connector=connector) as self._http, asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                if self._setup.wanted is not None:
                    events = PeerEvents(meet=self._meet, leave=self._leave, lost=self._lost, changed=self._changed)
                    self._peers = Peers(self._setup.wanted, self._keys, self._http, events, self._clock)
                    tasks.create_task(self._peers.run())
                tasks.create_task(self._tick())
                opened()
                await self._line.run(self._take)
                raise PenstockError("the worker's transfer thread is gone")
        finally:
            self._line.close()
            self._front_ends.close()

    def fetch(self, order: Order) -> None:
        """Begin a fetch."""
        assert self._tasks is not None, "a fetch before `serve`"
        self._orders[order.number] = order
        self._calls[order.number] = self._tasks.create_task(self._fetch(order))

    def cancel(self, number: int) -> None:
        """End a fetch."""
        if number in self._puller:
            self._do(self._puller.cancel(number))
        elif number in self._orders and number in self._calls:
            self._abandon(number, "")

    def announce(self, news: Sequence[News]) -> None:
        """Tell peers."""
        self._announcer.announce(news)

    def send(self, message: TransferInput) -> None:
        """Tell the worker."""
        self._line.send(message)

    def forget_client(self, client: int) -> None:
        """A front-end has died."""
        self._front_ends.forget(client)

    async def _fetch(self, order: Order) -> None:
        """One call to a peer, from finding it to its end."""
        number = order.number
        try:
            async with asyncio.timeout(self._setup.stall_seconds):
                peer = await self._find(order)
        except (Refused, TimeoutError) as error:
            self._abandon(number, f"no peer: {error or 'not ready in time'}")
            return
        assert self._http is not None, "a fetch before there is a session"
        assert peer.number is not None, f"{peer.address} is up without a number"
        assert peer.endpoint is not None, f"{peer.address} is up without an endpoint"
        now = self._clock()
        self._puller.begin(
            number,
            peer.number,
            order.call.skip,
            order.blocks,
            now,
            num_remote_blocks=peer.endpoint.num_blocks,
            patience=self._patience(order.predicted),
        )
        try:
            await call_prefill(self._http, peer, self._keys, order.call, now, lambda news: self._hear(number, news))
        except CallLost as error:
            self._do(self._puller.call_lost(number, str(error), is_death=error.is_death))

    def _patience(self, predicted: float) -> float:
        """Seconds beyond the stall time that a peer may take to compute something.

        Its machine may be busy, and if it has died its polls say so; but this engine must not look stuck meanwhile.
        """
        shortest, longest = (times * self._setup.stall_seconds for times in PATIENCE)
        return max(shortest, min(longest, 2 * predicted))

    async def _find(self, order: Order) -> Peer:
        if self._peers is None:
            raise Refused("this pod asks nobody")
        peer = await self._peers.named(order.address) if not order.peer else self._peers.get(order.peer)
        if peer is None or peer.view is None:
            raise Refused("it has gone")
        return peer

    def _abandon(self, number: int, why: str) -> None:
        """End an arrival that no peer was asked for yet."""
        self._do([
            EndArrival(number=number, num_good=0, busy=[], peer=self._orders[number].peer, why=why),
            HangUp(number=number),
            CloseArrival(number=number),
        ])  # fmt: skip

    def _hear(self, number: int, announcement: Announcement) -> None:
        if isinstance(announcement, Computed) and number in self._puller:
            self.num_announced[number] = self.num_announced.get(number, 0) + len(announcement.blocks)
        self._do(self._puller.announced(number, announcement, self._clock()))

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case StartPull():
                    self._pulling[action.pull] = action.peer
                    self._line.send(pull_of(action))
                case GiveLeaseBack():
                    self._line.send(messages.ReturnLease(peer=action.peer, lease=action.lease, epoch=action.epoch))
                case HangUp(number=number):
                    if call := self._calls.pop(number, None):
                        call.cancel()
                case EndArrival():
                    self._ended(action)
                case CloseArrival(number=number):
                    del self._orders[number]
                    self._post(Happened(at=self._clock(), what=action))

    def _ended(self, end: EndArrival) -> None:
        self.num_announced.pop(end.number, None)
        key = self._orders[end.number].key
        if end.is_death:
            self._strike(key)
        elif end.why:
            self._suspects.append((self._clock() + SUSPICION_SECONDS, end.peer, key))
        self._post(Happened(at=self._clock(), what=end))

    def _take(self, message: TransferOutput) -> None:
        """Something that the worker says."""
        match message:
            case messages.Met(peer=peer, why=why):
                if self._peers is not None:
                    self._peers.met(peer, why)
            case messages.Pulled():
                self._pulled(message)
            case messages.Checksums(call=call, values=values):
                self._announcer.take(call, values)
            case messages.Unattached():
                raise message.to_error()
            case messages.LeaseReturned() | messages.Fetched() | messages.Stored():
                self._post(Happened(at=self._clock(), what=message))

    def _pulled(self, pulled: messages.Pulled) -> None:
        number = self._pulling.pop(pulled.pull, 0) if pulled.is_over else self._pulling.get(pulled.pull, 0)
        if not pulled.why and pulled.is_over:
            self.num_pulled_bytes += pulled.num_bytes
            if self._peers is not None and (peer := self._peers.get(number)):
                peer.moved(pulled.num_bytes, pulled.seconds)
        self._do(self._puller.pulled(pulled.pull, pulled.why, self._clock(), is_over=pulled.is_over))

    async def _tick(self) -> None:
        renewed_at = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._clock()
            self._do(self._puller.tick(now))
            self._suspects = [suspect for suspect in self._suspects if suspect[0] >= now]
            shortest = self._puller.shortest_lease
            if shortest is not None and now - renewed_at >= shortest / 3:
                renewed_at = now
                self._renew()

    def _renew(self) -> None:
        assert self._tasks is not None, "a renewal before `serve`"
        for number, leases in self._puller.leases().items():
            if self._peers is not None and (peer := self._peers.get(number)):
                self._tasks.create_task(self._call_renew(peer, Renewal(leases=leases)))

    async def _call_renew(self, peer: Peer, renewal: Renewal) -> None:
        assert self._http is not None, "renewal before there is a session"
        body = encode(renewal)
        headers = {"Authorization": self._keys.sign(peer.caller.claims(RENEW_PATH, body, self._clock()))}
        timeout = aiohttp.ClientTimeout(total=RENEW_SECONDS)
        try:
            async with self._http.post(peer.url + RENEW_PATH, data=body, headers=headers, timeout=timeout):
                pass
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the next one may get through; else the lease ends, and the fetch with it

    def _meet(self, number: int, endpoint: KvEndpoint) -> None:
        self._line.send(messages.Meet(peer=number, endpoint=endpoint))

    def _leave(self, number: int) -> None:
        self._line.send(messages.Leave(peer=number))

    def _lost(self, number: int, why: str, is_death: bool) -> None:
        self._do(self._puller.peer_lost(number, why, is_death=is_death))
        if is_death:
            for key in {key for _, peer, key in self._suspects if peer == number}:
                self._strike(key)

    def _changed(self) -> None:
        if self._peers is not None:
            self.views = self._peers.views()

    def _tell(self, key: RequestKey, announcement: Announcement | None) -> None:
        self._front_ends.send(key.client, LendNews(epoch=self._setup.epoch, handle=key.handle, news=announcement))

    def _strike(self, key: RequestKey) -> None:
        event(_log, "request.struck", level=logging.WARNING, handle=key.handle, why="a prefill pod died at it")
        self._front_ends.send(key.client, Strike(epoch=self._setup.epoch, handle=key.handle))


def pull_of(action: StartPull) -> messages.Pull:
    """The worker's message."""
    return messages.Pull(
        pull=action.pull,
        peer=action.peer,
        remote=ints(action.remote),
        local=ints(action.local),
        checksums=action.checksums,
        lease=action.lease,
        epoch=action.epoch,
    )


def ints(values: Sequence[int]) -> Ints:
    """As a column."""
    return np.array(values, dtype=np.int32)
