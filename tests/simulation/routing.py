"""The router of a simulated service: real admission, journals and frame readers; bytes travel in any pieces."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from penstock.errors import EngineFailure
from penstock.internal.frames import Frame, FrameKind, FrameReader
from penstock.internal.protocol import RoutedCall
from penstock.router.admission import Admission, Waiter
from penstock.router.resume import MAX_DEATHS, Journal
from simulation.prompts import Told

NUM_PLACES = 4  # requests that the router gives to a pod at once
RECORD = struct.Struct("<i?")  # a token, and whether it is the last


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """A request as its client, the router and the pod's front-end see it."""

    number: int
    told: Told
    kind: tuple[int, int, str]  # family, length, salt
    waiter: Waiter
    journal: Journal
    heard: list[int] = field(default_factory=list)
    is_over: bool = False
    did_fail: bool = False  # too many engines died with it
    did_leave: bool = False  # the client, or it was sent away
    # while it has a place
    handle: int | None = None  # at the engine
    stream: bytearray = field(default_factory=bytearray)  # sent by the pod, not read yet
    reader: FrameReader = field(default_factory=FrameReader)
    is_cut: bool = False  # nothing follows what is in the stream
    produced: list[int] = field(default_factory=list)  # what the pod's front-end knows

    @property
    def has_place(self) -> bool:
        return self.handle is not None

    def send(self, kind: FrameKind, record: bytes = b"", payload: bytes = b"") -> None:
        """The pod's front-end writes a frame."""
        self.stream += Frame(kind, record, payload).to_bytes()

    def send_token(self, token: int, *, is_last: bool) -> None:
        self.produced.append(token)
        self.send(FrameKind.EVENT, RECORD.pack(token, is_last), struct.pack("<i", token))
        if is_last:
            self.send(FrameKind.END)

    def hear(self, payload: bytes) -> None:
        """The client gets tokens."""
        assert not self.is_over, f"request {self.number} goes on after its end"
        self.heard += [token for (token,) in struct.iter_unpack("<i", payload)]
        right = self.told.answer[: len(self.heard)]
        assert self.heard == right, f"request {self.number} heard {self.heard}, not {right}"


class Router:
    """Who waits, who has a place, and what came back."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._admission = Admission(max_held=64, queue_seconds=random.choice((40.0, 1e6)), hold_seconds=1e6)
        self.clients: list[Client] = []
        self._of_waiter: dict[Waiter, Client] = {}

    @property
    def placed(self) -> list[Client]:
        return [client for client in self.clients if client.has_place]

    @property
    def can_place(self) -> bool:
        return bool(self._admission.num_waiting) and len(self.placed) < NUM_PLACES

    @property
    def open(self) -> list[Client]:
        return [client for client in self.clients if not client.is_over]

    def ask(self, told: Told, kind: tuple[int, int, str], now: float) -> None:
        """A client's request comes in."""
        waiter = Waiter(tenant=kind[2], work=float(kind[1]), since=now)
        call = RoutedCall(path="/v1/completions", body=b"{}", request_id="r", salt=kind[2])
        client = Client(number=len(self.clients), told=told, kind=kind, waiter=waiter, journal=Journal(call))
        self.clients.append(client)
        self._of_waiter[waiter] = client
        self._admission.set_up(True, now)
        assert self._admission.offer(waiter, now) is None

    def next_client(self, now: float) -> Client | None:
        """Who gets the next place; those that had one come first."""
        if urgent := self._admission.urgent:
            self._admission.remove(urgent[0])
            return self._of_waiter[urgent[0]]
        waiter = self._admission.take(now)
        return None if waiter is None else self._of_waiter[waiter]

    def expire(self, now: float) -> None:
        """Send those away who waited too long."""
        for waiter in self._admission.expire(now):
            self._of_waiter[waiter].is_over = self._of_waiter[waiter].did_leave = True

    def relay(self, client: Client, now: float) -> None:
        """Read some bytes of what a pod sent."""
        count = self._random.randint(1, len(client.stream))
        data = bytes(client.stream[:count])
        del client.stream[:count]
        try:
            payload, ending = client.journal.take(client.reader.feed(data))
        except EngineFailure:
            self._fail(client)
            return
        client.hear(payload)
        if ending is not None and ending.kind is FrameKind.MOVED:
            self._wait_again(client, now)
        elif ending is not None:
            assert client.heard == client.told.answer, f"request {client.number} ended after {client.heard}"
            client.handle, client.is_over = None, True

    def lose(self, client: Client, now: float) -> None:
        """The stream broke off: its pod died."""
        try:
            client.journal.count_death()
        except EngineFailure:
            self._fail(client)
        else:
            self._wait_again(client, now)

    def leave(self, client: Client) -> None:
        """The client goes away."""
        self._admission.remove(client.waiter)
        client.handle, client.is_over, client.did_leave = None, True, True

    def _wait_again(self, client: Client, now: float) -> None:
        client.handle = None
        self._admission.offer_again(client.waiter, now)

    def _fail(self, client: Client) -> None:
        assert client.journal.num_deaths == MAX_DEATHS, f"failed after {client.journal.num_deaths} deaths"
        client.handle, client.is_over, client.did_fail = None, True, True
