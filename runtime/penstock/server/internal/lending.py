"""What decode pods ask of this one: where its blocks are, to compute a prompt and hold its blocks, and to go on so."""

from __future__ import annotations

import numpy as np

from penstock.core.kv.block_hash import HASH_BYTES
from penstock.core.request import Request
from penstock.errors import InvalidRequest, Mismatch, Overloaded
from penstock.internal.pieces import PieceWriter
from penstock.internal.protocol import PrefillCall, Renewal
from penstock.sampling.params import SamplingParams
from penstock.server.exchange import Headers
from penstock.server.internal.body import decode_body
from penstock.server.pod_exchange import PodExchange
from penstock.server.serving import Serving
from penstock.wire import encode

MSGPACK = b"application/msgpack"
PIECES: Headers = [(b"content-type", b"application/x-penstock-pieces"), (b"cache-control", b"no-cache")]
MAC_HEADER = b"x-penstock-mac"


async def show_kv(serving: Serving, exchange: PodExchange) -> None:
    """Where peers READ this pod's blocks."""
    engine = serving.llm.engine
    if engine is None:
        raise Overloaded("the engine is not ready")
    if engine.endpoint is None:
        raise Mismatch("no peer can read the blocks of this pod")
    body = encode(engine.endpoint)
    mac = serving.cluster.mac(nonce_of(exchange), 0, body)
    await exchange.respond(body, MSGPACK, headers=[(MAC_HEADER, mac.hex().encode())])


async def prefill(serving: Serving, exchange: PodExchange) -> None:
    """Compute a prompt for a peer and tell it, block by block, what it can read until the lease is over."""
    call = decode_body(PrefillCall, exchange)
    request = build_request(serving, call)
    exchange.watch()
    lend = serving.llm.lend(request, call.skip)
    serving.metrics.count_prefill_call()
    writer = PieceWriter(serving.cluster, nonce_of(exchange))
    try:
        await exchange.on_disconnect(lend.aclose)
        await exchange.start_body(PIECES)
        async for announcements in lend:
            await exchange.send(b"".join(map(writer.write, announcements)))
        await exchange.end_stream()
    finally:
        await lend.aclose()


async def renew(serving: Serving, exchange: PodExchange) -> None:
    """Hold leases longer; those that are gone are ignored."""
    renewal = decode_body(Renewal, exchange)
    serving.leases.renew(renewal.leases, epoch=serving.llm.epoch, now=serving.clock())
    await exchange.respond_empty()


def build_request(serving: Serving, call: PrefillCall) -> Request:
    """The request that computes the prompt; raises `InvalidRequest` or, for a peer of another kind, `Mismatch`."""
    llm = serving.llm
    if llm.engine is None:
        raise Overloaded("the engine is not ready")
    if llm.engine.endpoint is None:
        raise Mismatch("no peer can read the blocks of this pod")
    if call.fingerprint != llm.engine.fingerprint:
        raise Mismatch("the blocks of this pod are of another model, type or layout")
    if call.revision != llm.config.transfer.pod_revision:
        raise Mismatch(f"this pod is of revision {llm.config.transfer.pod_revision!r}")
    num_blocks, rest = divmod(len(call.token_ids), 4 * llm.input.block_size)
    if rest or not num_blocks:
        raise InvalidRequest("token_ids: whole blocks are needed", "token_ids")
    if not 0 <= call.skip < num_blocks:
        raise InvalidRequest(f"skip: must be below the {num_blocks:,} blocks of the prompt", "skip")
    if len(call.root_hash) != HASH_BYTES:
        raise InvalidRequest(f"root_hash: must have {HASH_BYTES} bytes", "root_hash")
    [request] = llm.input.build(
        np.frombuffer(call.token_ids, dtype="<i4"),
        SamplingParams(max_tokens=1, ignore_eos=True, temperature=0.0, seed=0),
        request_id=call.request_id,
        priority=call.priority,
        root=call.root_hash,
        field="token_ids",
    )
    return request


def nonce_of(exchange: PodExchange) -> bytes:
    """Under which the answer is authenticated."""
    return b"" if exchange.claims is None else exchange.claims.nonce
