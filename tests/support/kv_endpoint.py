"""What a prefill pod says of its blocks, where nothing is READ from them."""

from __future__ import annotations

from penstock.internal.protocol import KvEndpoint

ENDPOINT = KvEndpoint(
    fingerprint="f1",
    session="session-1",
    agent="a",
    metadata=b"m",
    base=1 << 40,
    block_bytes=4096,
    num_blocks=101,
    lease_base=1 << 41,
    num_leases=4096,
)
