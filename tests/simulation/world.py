"""A service in one thread: router, prefill pod, decode pod and what lies between them, each event in a drawn order.

What may happen next is listed (`events`, `faults`), a random generator draws one of it, and then the invariants are
checked. Everything follows from the seed, so a seed that fails can be run alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from penstock.core.departures import Departures
from penstock.core.kv.block_hash import root_hash
from penstock.core.request import RequestKey
from penstock.internal.frames import FrameKind, FrameReader
from penstock.kv_transfer.switchboard import Order
from simulation.device import BLOCK_SIZE, int32
from simulation.pods import PEER_NAME, Call, DecodePod, PrefillPod
from simulation.prompts import named, prefill_of, prompt_of, told
from simulation.routing import RECORD, Client, Router


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What worlds are like; the last ones break one on purpose."""

    max_requests: int = 4
    num_events: int = 60  # before the faults end
    fault_rates: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)  # of all events; a world draws one
    visits: tuple[int, ...] = (0, 0, 2, 6)  # calls of another decode pod; a world draws one
    checksum_shares: tuple[float, ...] = (0.0, 0.3, 1.0)
    checks_epoch: bool = True
    checks_checksums: bool = True
    keeps_busy_blocks: bool = True
    keeps_departing_blocks: bool = True
    clears_words: bool = True
    keeps_records: bool = True


class HastyDepartures(Departures):
    """Gives blocks away while a step in flight may still write to them."""

    def leave(self, row: int, newest_step: int) -> None:
        self._kv.pool.release(self._kv.take(row))
        super().leave(row, newest_step)


class World:
    """One run."""

    def __init__(self, seed: int, settings: Settings) -> None:
        self.random = random = Random(seed)
        self.settings, self.now = settings, 100.0
        # blocks there and here: one request fits
        sizes = (random.choice((7, 7, 8, 12)), random.choice((9, 9, 10, 14)))
        self.shapes = [(size, random.choice((4, 7, 16)), random.choice((1, 2, 2))) for size in sizes]
        self.checksum_share = random.choice(settings.checksum_shares)
        self.fault_rate = random.choice(settings.fault_rates)
        self.is_one_sided = random.random() < 0.6  # a READ goes on while its source is stopped
        self.num_to_ask = random.randint(1, settings.max_requests)
        self.router = Router(random)
        self.clients: dict[int, Client] = {}  # by the handle of a request at the engine
        self.num_calls = self.num_handles = 0
        self.num_visits = random.choice(settings.visits)  # calls of another decode pod that are to come
        self.contents: dict[bytes, list[int]] = {}  # what a block of that name must hold
        self.prefill = self.build_prefill(1)
        self.decode = self.build_decode()
        # on their way
        self.calls: list[Call] = []
        self.hang_ups: list[tuple[PrefillPod, RequestKey]] = []
        self.notes: list[tuple[PrefillPod, int, int]] = []  # leases that are given back
        self.renewals: list[tuple[PrefillPod, int, int]] = []
        self.lost_peers: list[int] = []
        self.visitors: list[Call] = []
        self.renewed_at = 0.0

    def build_prefill(self, life: int) -> PrefillPod:
        pod = PrefillPod(life, self.random, lambda: self.now, self.checksum_share, *self.shapes[0])
        if not self.settings.clears_words:
            pod.words.end = lambda row: None
        return pod

    def build_decode(self) -> DecodePod:
        pod = DecodePod(lambda: self.now, *self.shapes[1])
        if not self.prefill.is_dead:
            pod.know(self.prefill)
        pod.keeps_busy_blocks = self.settings.keeps_busy_blocks
        if not self.settings.keeps_departing_blocks:
            pod.scheduler._departures.__class__ = HastyDepartures
        return pod

    def ask(self) -> None:
        """A client's request comes in."""
        random = self.random
        self.num_to_ask -= 1
        kind = (random.randrange(3), random.randint(3, 22), random.choice("aab"))
        made = told(kind[0], kind[1], random.randint(1, 9), kind[2])
        self.contents |= made.contents
        self.router.ask(made, kind, self.now)

    def place(self) -> None:
        """The router gives a request to the decode pod; its prompt may be prefilled elsewhere."""
        if (client := self.router.next_client(self.now)) is None:
            return
        call = client.journal.next_call()
        records = [RECORD.unpack(record) for record in call.records]
        records = records if self.settings.keeps_records else records[:-1]
        client.produced = [token for token, _ in records]
        client.stream, client.reader, client.is_cut = bytearray(), FrameReader(), False
        self.num_handles += 1
        client.handle = self.num_handles
        if records and records[-1][1]:
            client.send(FrameKind.END)
            return
        self.tell_engine(client)

    def tell_engine(self, client: Client) -> None:
        """The pod's front-end tells its engine a request, with what is known of its answer."""
        assert client.handle is not None
        self.clients[client.handle] = client
        changes = {
            "is_remote_prefill_allowed": not client.journal.num_deaths,
            "prefiller": PEER_NAME if self.random.random() < 0.5 else "",
        }
        request = named(client.told.request, client.handle, self.now, **changes)
        self.decode.add(request, int32(client.produced))

    def begin_fetch(self, order: Order) -> None:
        """The connector's thread takes an order of the step loop."""
        self.decode.link.orders.remove(order)
        if order.peer not in self.decode.sources:
            self.decode.abandon(order)
            return
        made = prefill_of(order.call.token_ids, order.call.root_hash)
        self.contents |= made.contents
        self.num_calls += 1
        self.calls.append(self.decode.begin(order, made, self.num_calls))

    def visit(self) -> None:
        """Another decode pod calls the prefill pod, of which nothing else is simulated."""
        self.num_visits -= 1
        self.num_calls += 1
        prompt = prompt_of(self.random.randrange(3), BLOCK_SIZE * self.random.randint(2, 5))
        made = prefill_of(int32(prompt), root_hash(self.random.choice("ab")))
        self.contents |= made.contents
        self.visitors.append(Call(0, self.num_calls, self.prefill, made, 0))
        self.prefill.take(self.visitors[-1], self.now)

    @property
    def is_at_rest(self) -> bool:
        """Nobody waits for anything, and nothing is on its way."""
        decode, prefill = self.decode, self.prefill
        on_the_way = (
            self.visitors
            or self.calls
            or self.hang_ups
            or self.notes
            or self.lost_peers
            or self.num_to_ask
            or self.router.open
        )
        held = decode.reads or decode.calls or decode.returns or decode.hang_ups or prefill.calls
        held = held or decode.link.orders or decode.link.cancelled or decode.link.inbox or prefill.link.inbox
        are_busy = any(pod.scheduler.has_work or pod.is_dead or pod.is_stopped for pod in (decode, prefill))
        return not (on_the_way or held or are_busy or prefill.lender.num_leases)

    def state(self) -> str:
        """What is not at rest, for a message."""
        open_ = [(client.number, client.has_place) for client in self.router.open]
        pods = [
            (len(pod.scheduler.waiting), pod.scheduler.running.size, pod.pool.num_free)
            for pod in (self.decode, self.prefill)
        ]
        return f"requests {open_}, pods {pods}, {len(self.decode.reads)} READs, {len(self.decode.calls)} calls"

    def check(self) -> None:
        """What must hold at every moment."""
        for pod in (self.decode, self.prefill):
            memory = pod.device.memory
            for name, block in pod.pool._cached.items():
                assert memory[block] == self.contents[name], f"block {block} can be found and holds something else"
        pool, to_write = self.decode.pool, self.decode.device.to_write if self.decode.reads else set()
        for read in self.decode.reads.values():
            for block in read.pull.local:
                is_kept = block in pool._tickets and not pool._owners[block] and pool._hash_of[block] is None
                assert is_kept, f"block {block} is used while a READ may write to it"
                assert block not in to_write, f"block {block} is READ to while a step may write to it"
            if read.source.words.epochs[read.pull.lease] == read.pull.epoch:
                memory = read.source.device.memory
                held = [memory[block] for block in read.pull.remote]
                assert held == read.contents, "the lease of a READ is good, and its blocks are not"

    def check_rest(self) -> None:
        """What must hold when all is over."""
        for client in self.router.clients:
            is_answered = client.heard == client.told.answer
            assert is_answered or client.did_fail or client.did_leave, f"request {client.number} never ended"
        for pod in (self.decode, self.prefill):
            problem = pod.pool.check_integrity()
            assert problem is None, problem
            assert not pod.scheduler.tickets.num_blocks, f"{pod.scheduler.tickets.num_blocks} tickets are out"
            assert pod.pool.num_free == pod.pool.num_blocks - 1, f"{pod.pool.num_free} blocks came back"
        assert not self.decode.puller.has_work, "a fetch never ended"
