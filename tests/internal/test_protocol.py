"""Pods of two versions, side by side during a rollout."""

from __future__ import annotations

import msgspec
import pytest

from penstock.internal.protocol import KvEndpoint
from penstock.wire import decoder, encode
from support.kv_endpoint import ENDPOINT

GPU_ENDPOINT = msgspec.structs.replace(ENDPOINT, kind="VRAM", device=1)


class KvEndpointBeforeGpus(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    fingerprint: str
    session: str
    agent: str
    metadata: bytes
    base: int
    block_bytes: int
    num_blocks: int
    lease_base: int
    num_leases: int


def test_an_endpoint_comes_back_as_it_was():
    assert decoder(KvEndpoint).decode(encode(GPU_ENDPOINT)) == GPU_ENDPOINT


def test_an_endpoint_of_a_pod_from_before_gpus_is_of_host_memory_and_it_understands_ours():
    old = decoder(KvEndpointBeforeGpus).decode(encode(GPU_ENDPOINT))
    assert old.num_leases == GPU_ENDPOINT.num_leases
    new = decoder(KvEndpoint).decode(encode(old))
    assert new == msgspec.structs.replace(GPU_ENDPOINT, kind="DRAM", device=0)


@pytest.mark.parametrize("changes", [{"kind": "FILE"}, {"device": -1}])
def test_an_endpoint_in_memory_that_nobody_knows_is_malformed(changes: dict):
    with pytest.raises(msgspec.DecodeError):
        decoder(KvEndpoint).decode(encode(msgspec.structs.replace(GPU_ENDPOINT, **changes)))
