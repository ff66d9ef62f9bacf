"""A pod that lies about what it has, with the key of the service or without, gets no wrong token into any answer."""

from __future__ import annotations

import itertools
import secrets

import msgspec
import numpy as np
import pytest

from penstock.core.kv.block_hash import root_hash
from penstock.internal.credentials import ClusterKeys
from penstock.internal.protocol import Computed, Ended, Granted, PrefillCall
from support.fleet_impostor import Impostor
from support.fleet_requests import long_prompts, nothing, while_asked
from support.fleet_service import LOOPBACK, running, until
from support.serving import free_port

pytestmark = pytest.mark.faults
PORT = free_port()
BLOCK_SIZE = 16


@pytest.fixture(scope="module")
def lonely(tmp_path_factory):
    """A decode pod that takes what listens on `PORT` for its prefill pod; the real one is not asked."""
    folder = tmp_path_factory.mktemp("lonely")
    with running(folder, decode=(LOOPBACK,), prefillers=[f"127.0.0.1:{PORT}"]) as service:
        yield service


def num_blocks(call: PrefillCall) -> int:
    return len(call.token_ids) // (4 * BLOCK_SIZE)


def all_blocks(call: PrefillCall) -> Computed:
    """Some blocks of the real pod, as if they were those of the call."""
    return Computed(start=call.skip, blocks=list(range(1, 1 + num_blocks(call) - call.skip)), checksums=[])


def granted(epoch: int) -> Granted:
    return Granted(lease=0, epoch=epoch, seconds=10)


LIES = {
    "an epoch that it made up": lambda call: [granted(secrets.randbits(63)), all_blocks(call), Ended()],
    "no lease": lambda call: [all_blocks(call), Ended()],
    "blocks that nobody has": lambda call: [granted(5), Computed(start=call.skip, blocks=[1 << 30], checksums=[])],
    "a lease that nobody has": lambda call: [Granted(lease=1 << 40, epoch=5, seconds=1), all_blocks(call)],
    "blocks from the middle": lambda call: [granted(5), Computed(start=call.skip + 3, blocks=[1, 2], checksums=[])],
    "wrong checksums": lambda call: [
        granted(5),
        Computed(start=call.skip, blocks=[1, 2], checksums=[(0, 12345), (1, 54321)]),
    ],
    "nothing": lambda call: [],
}
SESSIONS = itertools.count(1)


@pytest.fixture
async def impostor(lonely):
    """As if it were a pod that has just begun."""
    impostor = Impostor(lonely.prefills[0].internal, lonely.key_file)
    impostor.session = f"impostor-{next(SESSIONS)}"
    yield impostor
    await impostor.close()


async def ask_until_asked(service, impostor) -> None:
    """The decode pod may be disappointed, and comes back."""
    for _ in range(60):
        await while_asked(service, long_prompts(2, max_tokens=24), nothing)
        if impostor.num_asked:
            return
    pytest.fail("it was never asked")


@pytest.mark.parametrize("name", LIES)
async def test_a_pod_that_has_the_key_and_lies_is_not_believed(lonely, impostor, name):
    before = lonely.transfers("count")
    impostor.lie = LIES[name]
    await impostor.start(PORT)
    await ask_until_asked(lonely, impostor)
    assert lonely.transfers("count") == before
    assert 0 < lonely.transfers("failed") <= lonely.transfers("fallbacks")


async def test_a_lease_that_is_over_is_of_no_use(lonely, impostor):
    tokens = np.arange(1000, 1000 + 24 * BLOCK_SIZE, dtype="<i4").tobytes()
    load = lonely.prefills[0].load()
    call = PrefillCall(
        request_id="r",
        token_ids=tokens,
        root_hash=root_hash(None),
        skip=0,
        fingerprint=load["fingerprint"],
        revision=load["revision"],
    )
    lease, said = await impostor.borrow(call)
    await until(lambda: not lonely.prefills[0].load()["leases"], 10, "the end of the lease")
    [blocks] = [each for each in said if isinstance(each, Computed)][:1]
    impostor.lie = lambda call: [lease, msgspec.structs.replace(blocks, start=call.skip, checksums=[])]
    before = lonely.transfers("count")
    await impostor.start(PORT)
    await ask_until_asked(lonely, impostor)
    assert lonely.transfers("count") == before


async def test_a_pod_without_the_key_is_never_asked(lonely, tmp_path):
    (tmp_path / "key").write_text("not the key of the service at all\n")
    impostor = Impostor(lonely.prefills[0].internal, lonely.key_file, ClusterKeys(tmp_path / "key"))
    impostor.session = "keyless"
    await impostor.start(PORT)
    try:
        await until(lambda: "was not made with our key" in lonely.decodes[0].program.said(), 20, lonely.tails)
        await while_asked(lonely, long_prompts(2, max_tokens=24), nothing)
        assert not impostor.num_asked
    finally:
        await impostor.close()


async def test_memory_that_is_not_there_kills_nobody(lonely, impostor):
    impostor.change_endpoint = lambda endpoint: msgspec.structs.replace(
        endpoint, base=endpoint.base + (1 << 40), lease_base=endpoint.lease_base + (1 << 40)
    )
    impostor.lie = LIES["an epoch that it made up"]
    before = [process.pid for process in lonely.decodes[0].program.processes()]
    await impostor.start(PORT)
    for _ in range(3):
        await while_asked(lonely, long_prompts(2, max_tokens=24), nothing)
    assert [process.pid for process in lonely.decodes[0].program.processes()] == before


async def test_words_that_are_not_nixls_kill_nobody(lonely, impostor):
    impostor.change_endpoint = lambda endpoint: msgspec.structs.replace(endpoint, metadata=secrets.token_bytes(400))
    before = [process.pid for process in lonely.decodes[0].program.processes()]
    await impostor.start(PORT)
    await until(lambda: "cannot be reached" in lonely.decodes[0].program.said(), 20, lonely.tails)
    await while_asked(lonely, long_prompts(2, max_tokens=24), nothing)
    assert [process.pid for process in lonely.decodes[0].program.processes()] == before
