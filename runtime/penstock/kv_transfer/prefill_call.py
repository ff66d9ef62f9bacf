"""One `POST /internal/v1/prefill`: what the peer announces, as it comes."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from penstock.errors import PenstockError
from penstock.internal.credentials import ClusterKeys
from penstock.internal.pieces import BrokenPiece, PieceReader
from penstock.internal.protocol import PREFILL_PATH, Announcement, PrefillCall
from penstock.kv_transfer.peer import Peer
from penstock.wire import encode

CONNECT_SECONDS = 2.0


class CallLost(PenstockError):
    """The call ended before its time."""

    def __init__(self, why: str, *, is_death: bool = False) -> None:
        super().__init__(why)
        self.is_death = is_death  # the peer was at it, and vanished


async def call_prefill(
    http: aiohttp.ClientSession,
    peer: Peer,
    keys: ClusterKeys,
    call: PrefillCall,
    now: float,
    take: Callable[[Announcement], None],
) -> None:
    """Hand each announcement to `take` until the call is cancelled; raises `CallLost` if the peer ends it."""
    body = encode(call)
    claims = peer.caller.claims(PREFILL_PATH, body, now, request_id=call.request_id, tenant=call.root_hash.hex())
    reader = PieceReader(keys, claims.nonce, Announcement)
    headers = {"Authorization": keys.sign(claims), "Content-Type": "application/msgpack"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    is_at_it = False
    try:
        async with http.post(peer.url + PREFILL_PATH, data=body, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                raise CallLost(f"the peer answered {response.status}")
            is_at_it = True
            async for data in response.content.iter_any():
                for announcement in reader.feed(data):
                    take(announcement)
    except BrokenPiece as error:
        raise CallLost(f"the peer's answer is broken: {error}") from None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise CallLost(f"the connection was lost ({type(error).__name__})", is_death=is_at_it) from None
    raise CallLost("the peer ended the call")
