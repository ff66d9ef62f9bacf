"""A router's side of a routed call, as plain as it can be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
import msgspec

from penstock.internal.credentials import Caller, ClusterKeys
from penstock.internal.frames import Frame, FrameReader
from penstock.internal.protocol import ROUTE_PATH, RoutedCall
from support.sites import Site

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def call_of(path: str, body: dict, records: Iterable[bytes] = (), **fields) -> bytes:
    call = RoutedCall(
        path=path, body=json.dumps(body).encode(), request_id="r-1", records=[r for r in records if r], **fields
    )
    return msgspec.msgpack.encode(call)


@asynccontextmanager
async def routing(site: Site, call: bytes, headers: dict | None = None) -> AsyncIterator[httpx.Response]:
    async with site.internal.stream("POST", ROUTE_PATH, content=call, headers=headers) as reply:
        yield reply


async def frames_of(reply: httpx.Response) -> AsyncIterator[Frame]:
    reader = FrameReader()
    async for data in reply.aiter_raw():
        for frame in reader.feed(data):
            yield frame


async def route(site: Site, path: str, body: dict, records: Iterable[bytes] = (), **fields) -> list[Frame]:
    """All frames of a call."""
    async with routing(site, call_of(path, body, records, **fields)) as reply:
        assert reply.status_code == 200, await reply.aread()
        assert reply.headers["x-request-id"] == "r-1"
        return [frame async for frame in frames_of(reply)]


def payload_of(frames: Iterable[Frame]) -> bytes:
    return b"".join(frame.payload for frame in frames)


def token_for(site: Site, keys: ClusterKeys, path: str, body: bytes = b"", **claims) -> dict[str, str]:
    """The header of a call that is in order."""
    caller = Caller(keys)
    now = site.serving.clock()
    caller.learn(site.llm.sessions[0], now, now)
    return {"authorization": keys.sign(msgspec.structs.replace(caller.claims(path, body, now), **claims))}
