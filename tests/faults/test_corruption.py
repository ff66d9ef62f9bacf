"""KV that changes after its checksum was told is noticed and computed again."""

from __future__ import annotations

import os
import signal
import urllib.request

import msgspec
import pytest

from penstock.internal.credentials import ClusterKeys, query_claims
from penstock.internal.protocol import KV_PATH, KvEndpoint
from support.fleet_requests import be_trusted, long_prompts, while_asked
from support.fleet_service import LOOPBACK, Pod, Service, running, until

pytestmark = pytest.mark.faults


def endpoint_of(service: Service, pod: Pod) -> KvEndpoint:
    """Where its blocks are."""
    token = ClusterKeys(service.key_file).sign(query_claims(KV_PATH))
    request = urllib.request.Request(f"http://{pod.internal}{KV_PATH}", headers={"Authorization": token})
    with urllib.request.urlopen(request, timeout=5) as reply:
        return msgspec.msgpack.decode(reply.read(), type=KvEndpoint)


def spoil(pid: int, endpoint: KvEndpoint) -> None:
    """Write over the middle of every block, behind the back of the process that has them."""
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for block in range(1, endpoint.num_blocks):
            memory.seek(endpoint.base + block * endpoint.block_bytes + endpoint.block_bytes // 2)
            memory.write(os.urandom(64))


def is_computed(load: dict, num_outputs: int) -> bool:
    """All prompts are computed, and wait to be read."""
    return load["output_tokens"] >= num_outputs and load["leases"] > 0


async def test_blocks_that_were_changed_after_they_were_announced_are_not_used(tmp_path):
    with running(tmp_path, decode=(LOOPBACK,)) as service:
        [prefill], [decode] = service.prefills, service.decodes
        endpoint = endpoint_of(service, prefill)
        [source] = prefill.program.processes("penstock:worker-0")

        async def change(tasks) -> None:
            await until(lambda: prefill.num_prefills > num_calls, 30, "work", pause=0.005)
            decode.program.signal(signal.SIGSTOP, "penstock:worker-0")
            try:
                await until(
                    lambda: is_computed(prefill.load(), num_outputs + 1), 30, "the end of that work", pause=0.02
                )
                spoil(source.pid, endpoint)
            finally:
                decode.program.signal(signal.SIGCONT, "penstock:worker-0")

        await be_trusted(service)
        num_calls, num_outputs = prefill.num_prefills, prefill.load()["output_tokens"]
        await while_asked(service, long_prompts(1), change)
        transfers = decode.load()["transfers"]
        assert 0 < transfers["failed"] <= transfers["fallbacks"], transfers
