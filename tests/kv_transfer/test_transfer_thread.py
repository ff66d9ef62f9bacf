"""Two processes, real NIXL, real shared memory and TCP: what is pulled is right, or it does not count."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import psutil
import pytest

from penstock.kv_transfer.checksum import checksum_of
from penstock.kv_transfer.messages import (
    Checksum,
    Checksums,
    LeaseReturned,
    Leave,
    Meet,
    Met,
    Pulled,
    ReturnLease,
    Unattached,
)
from support.kv_worker import KvWorker, build_pull

STALL_SECONDS = 0.5


@dataclass
class Pair:
    """A prefill worker whose blocks a decode worker pulls."""

    prefill: KvWorker
    decode: KvWorker
    lease: tuple[int, int] = (0, 0)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self) -> None:
        """As new: other contents, met, with a lease."""
        self.prefill.fill(next(self.numbers))
        self.decode.memory[:] = 0
        self.decode.meet(self.prefill)
        lease = self.prefill.leases.grant(time.monotonic())
        assert lease is not None
        self.lease = lease

    def pull(self, remote, local, **changes) -> Pulled:
        self.order(remote, local, **changes)
        return self.answer()

    def order(self, remote, local, **changes) -> None:
        self.decode.send(build_pull(next(self.numbers), remote, local, **({"lease": self.lease} | changes)))

    def answer(self) -> Pulled:
        answer = self.decode.receive()
        assert isinstance(answer, Pulled)
        return answer

    def checksums(self, remote) -> list[tuple[int, int]]:
        return [(position, checksum_of(self.prefill.memory[block])) for position, block in enumerate(remote)]

    def has(self, remote, local) -> bool:
        return bool((self.decode.memory[local] == self.prefill.memory[remote]).all())


def build_pairs(folder, is_tcp: bool) -> Iterator[Pair]:
    options = {"is_tcp": is_tcp, "kv_stall_seconds": STALL_SECONDS}
    pair = Pair(KvWorker(folder, "prefill", **options), KvWorker(folder, "decode", **options))
    yield pair
    pair.decode.close()
    pair.prefill.close()


@pytest.fixture(scope="module", params=["shared memory", "tcp"])
def workers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    yield from build_pairs(tmp_path_factory.mktemp("kv"), request.param == "tcp")


@pytest.fixture
def pair(workers: Pair) -> Pair:
    workers.begin()
    return workers


@pytest.fixture(params=["shared memory", "tcp"])
def mortal(request: pytest.FixtureRequest, tmp_path) -> Iterator[Pair]:
    """A pair for tests that kill."""
    for pair in build_pairs(tmp_path, request.param == "tcp"):
        pair.begin()
        yield pair


def test_a_pull_brings_every_block_bit_for_bit(pair: Pair):
    remote = np.random.default_rng(1).permutation(64)
    local = np.random.default_rng(2).permutation(64)
    answer = pair.pull(remote, local, checksums=pair.checksums(remote))
    assert (answer.why, answer.is_over, answer.num_bytes) == ("", True, 64 * 100_000)
    assert pair.has(remote, local)
    assert answer.seconds > 0


def test_a_pull_touches_no_other_block(pair: Pair):
    assert pair.pull([5, 6], [9, 8]).why == ""
    assert pair.has([5, 6], [9, 8])
    others = [block for block in range(64) if block not in (8, 9)]
    assert not pair.decode.memory[others].any()


def test_many_pulls_at_once_are_all_answered(pair: Pair):
    for block in range(64):
        pair.order([block], [63 - block])
    answers = [pair.answer() for _ in range(64)]
    assert {answer.why for answer in answers} == {""}
    assert len({answer.pull for answer in answers}) == 64
    assert pair.has(list(range(64)), list(range(63, -1, -1)))


def test_a_pull_does_not_count_once_the_lease_has_ended(pair: Pair):
    pair.prefill.leases.end(pair.lease[0])
    answer = pair.pull([1], [1])
    assert (answer.why, answer.is_over, answer.num_bytes) == ("the lease had ended before the READ had", True, 0)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_pull_does_not_count_under_an_earlier_or_forged_epoch(pair: Pair, change: int):
    row, epoch = pair.lease
    assert "lease had ended" in pair.pull([1], [1], lease=(row, epoch + change)).why
    assert "lease had ended" in pair.pull([1], [1], lease=(row + 7, epoch)).why


def test_a_wrong_checksum_anywhere_makes_the_pull_fail(pair: Pair):
    remote = list(range(64))
    for position in (0, 40, 63):
        checksums = pair.checksums(remote)
        pair.prefill.memory[position, 77] ^= 1
        answer = pair.pull(remote, remote, checksums=checksums)
        assert (answer.why, answer.num_bytes) == (f"the checksum of block {position} is wrong", 0)


def test_checksums_are_of_the_blocks_that_were_asked_for(pair: Pair):
    expected = [checksum_of(pair.prefill.memory[block]) for block in (3, 60)]
    asked = Checksum(call=4, blocks=np.array([3, 60], dtype=np.int32))
    assert pair.prefill.call(asked) == Checksums(call=4, values=expected)


def test_a_returned_lease_arrives_as_a_notification(pair: Pair):
    row, epoch = pair.lease
    pair.decode.send(ReturnLease(peer=1, lease=row, epoch=epoch))
    assert pair.prefill.receive() == LeaseReturned(lease=row, epoch=epoch)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fingerprint": "0" * 32}, "fingerprint"),
        ({"block_bytes": 99_999}, "99,999 bytes"),
        ({"num_blocks": 65}, "NIXL failed"),  # beyond what is registered there
        ({"base": 1 << 40}, "NIXL failed"),
        ({"agent": "somebody else"}, "metadata is of the agent"),
        ({"metadata": b"nonsense"}, "NIXL failed"),
        ({"metadata": b""}, "NIXL failed"),
        ({"kind": "VRAM"}, "NIXL failed"),
    ],
)
def test_an_endpoint_that_does_not_fit_is_refused(pair: Pair, changes: dict, why: str):
    pair.decode.send(Leave(peer=1))
    answer = pair.decode.call(Meet(peer=2, endpoint=msgspec.structs.replace(pair.prefill.endpoint, **changes)))
    assert isinstance(answer, Met)
    assert why in answer.why
    assert "not known" in pair.pull([1], [1], peer=2).why
    pair.decode.meet(pair.prefill)
    assert pair.pull([1], [1]).why == ""


@pytest.mark.parametrize(
    ("remote", "local", "changes"),
    [
        ([64], [0], {}),
        ([-1], [0], {}),
        ([0], [64], {}),
        ([0, 1], [0], {}),
        ([], [], {}),
        ([0], [0], {"checksums": [(1, 0)]}),
        ([0], [0], {"lease": (4096, 1)}),
        ([0], [0], {"lease": (-1, 1)}),
        ([0], [0], {"peer": 3}),
    ],
)
def test_a_pull_that_makes_no_sense_is_answered_and_reads_nothing(pair: Pair, remote, local, changes: dict):
    answer = pair.pull(remote, local, **changes)
    assert answer.why
    assert answer.is_over
    assert not pair.decode.memory.any()


def test_nonsense_on_the_channel_is_dropped(pair: Pair):
    noise = np.random.default_rng(0)
    for size in (0, 1, 7, 100, 5000):
        pair.decode.channel.send(noise.bytes(size))
    pair.decode.channel.send(msgspec.msgpack.encode({"type": "pull", "pull": 1, "local": ["<i4", [3], b"12"]}))
    pair.decode.send(Checksum(call=1, blocks=np.array([64], dtype=np.int32)))
    pair.decode.send(Checksum(call=1, blocks=np.array([1.5])))
    assert pair.pull([1], [1]).why == ""


def test_a_thread_without_work_does_not_spin(pair: Pair):
    for worker in (pair.prefill, pair.decode):
        process = psutil.Process(worker.process.pid)
        before = sum(process.cpu_times()[:2])
        time.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - before < 0.2


def test_among_pods_of_one_machine_nixl_listens_on_loopback_alone(pair: Pair):
    for worker in (pair.prefill, pair.decode):
        listening = [each for each in psutil.Process(worker.process.pid).net_connections() if each.status == "LISTEN"]
        assert {each.laddr.ip for each in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("size", [0, 1, 24, 5000, 100_000])
def test_random_bytes_at_the_port_of_nixl_harm_nobody(pair: Pair, size: int):
    noise = np.random.default_rng(size)
    for worker in (pair.prefill, pair.decode):
        listening = [each for each in psutil.Process(worker.process.pid).net_connections() if each.status == "LISTEN"]
        for each in listening:
            for _ in range(5):
                with socket.create_connection(each.laddr, timeout=5) as stranger, contextlib.suppress(OSError):
                    stranger.sendall(noise.bytes(size))
    assert pair.pull([1], [1]).why == ""
    assert pair.has([1], [1])
    assert pair.prefill.process.poll() is None


def test_a_peer_that_died_is_said_to_have(mortal: Pair):
    assert mortal.pull([1], [1]).why == ""
    mortal.prefill.kill()
    answer = mortal.pull([1], [1])
    while not answer.is_over:
        answer = mortal.answer()
    assert answer.why
    mortal.decode.send(Leave(peer=1))
    again = KvWorker(mortal.decode.folder, "prefill", is_tcp=mortal.decode.is_tcp)
    mortal.prefill = again  # to be closed
    mortal.begin()
    assert mortal.pull([1], [1]).why == ""
    assert mortal.has([1], [1])


def test_a_peer_that_dies_during_pulls_ends_them_all(mortal: Pair):
    everything = list(range(64))
    assert mortal.pull([1], [1]).why == ""
    for _ in range(600):  # 3.8 GB
        mortal.order(everything, everything)
    time.sleep(0.1)
    mortal.prefill.kill()
    ends, num_open = [], 600
    while num_open:
        answer = mortal.answer()
        num_open -= answer.is_over
        ends.append(answer)
    assert all(answer.why for answer in ends[-100:])


def test_a_read_from_a_stopped_peer_is_over_only_when_it_is(tmp_path):
    for pair in build_pairs(tmp_path, is_tcp=True):
        pair.begin()
        assert pair.pull([1], [1]).why == ""
        pair.prefill.signal(signal.SIGSTOP)
        begin = time.monotonic()
        answer = pair.pull(list(range(64)), list(range(64)))
        assert (answer.why, answer.is_over) == ("no progress for 0.5 seconds", False)
        assert STALL_SECONDS <= time.monotonic() - begin < 5
        pair.decode.send(Leave(peer=1))
        assert "not known" in pair.pull([1], [1]).why
        pair.prefill.signal(signal.SIGCONT)
        answer = pair.answer()
        assert (answer.why, answer.is_over) == ("no progress for 0.5 seconds", True)
        pair.decode.memory[:] = 7
        time.sleep(0.3)
        assert (pair.decode.memory == 7).all()
        pair.decode.meet(pair.prefill)
        assert pair.pull([1], [1]).why == ""


def test_leaving_a_stopped_peer_gives_its_pulls_up_at_once(tmp_path):
    options = {"is_tcp": True, "kv_stall_seconds": 600.0}
    pair = Pair(KvWorker(tmp_path, "prefill", **options), KvWorker(tmp_path, "decode", hurry=30, **options))
    pair.begin()
    assert pair.pull([1], [1]).why == ""
    pair.prefill.signal(signal.SIGSTOP)
    pair.order(list(range(64)), list(range(64)))
    time.sleep(0.2)
    pair.decode.send(Leave(peer=1))
    answer = pair.answer()
    assert (answer.why, answer.is_over) == ("the peer was left", False)
    begin = time.monotonic()
    assert pair.answer().is_over  # after CUT_SECONDS of its hurried clock, its agent was replaced
    assert time.monotonic() - begin < 10
    pair.decode.memory[:] = 7
    pair.prefill.signal(signal.SIGCONT)  # and goes on to serve what nobody wants any more
    time.sleep(0.5)
    assert (pair.decode.memory == 7).all()
    pair.prefill.kill()
    pair.prefill = KvWorker(tmp_path, "prefill", is_tcp=True)
    pair.begin()
    assert pair.pull([1], [1]).why == ""
    pair.decode.close()
    pair.prefill.close()


def test_without_nixl_the_first_word_says_what_to_install(tmp_path):
    worker = KvWorker(tmp_path, "prefill", has_nixl=False)
    assert isinstance(worker.first, Unattached)
    assert "pip install 'penstock[nixl]'" in worker.first.why
    worker.close()


def test_nixl_that_cannot_reach_a_gpu_is_one_line_that_says_what_it_needs(tmp_path):
    worker = KvWorker(tmp_path, "decode", is_gpu=True)  # it calls host memory a GPU's, which NIXL sees
    assert isinstance(worker.first, Unattached)
    assert worker.first.why.startswith("NIXL failed to register the GPU's memory; it needs nixl-cu12 or nixl-cu13, ")
    assert "\n" not in worker.first.why
    worker.close()
