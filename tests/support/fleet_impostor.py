"""A pod that pretends to be a prefill pod: it says what it was told to say, with the key of the service or another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from penstock.internal.credentials import Caller, ClusterKeys, query_claims
from penstock.internal.pieces import PieceReader, PieceWriter
from penstock.internal.protocol import (
    KV_PATH,
    LOAD_PATH,
    PREFILL_PATH,
    RENEW_PATH,
    Announcement,
    Granted,
    KvEndpoint,
    Load,
    PrefillCall,
)
from penstock.wire import encode

SESSION = "impostor"
Lie = Callable[[PrefillCall], list[Announcement]]


class Impostor:
    """Shows the load and the memory of a real pod as its own, and answers calls with `lie`."""

    def __init__(self, real: str, key_file: Path, own_keys: ClusterKeys | None = None) -> None:
        """`real`: internal address of the pod that it poses as; `own_keys`: what it signs with, if not the key."""
        self.lie: Lie = lambda call: []
        self.change_endpoint: Callable[[KvEndpoint], KvEndpoint] = lambda endpoint: endpoint
        self.session = SESSION
        self.num_asked = 0
        self._real, self._keys = f"http://{real}", ClusterKeys(key_file)
        self._own_keys = own_keys or self._keys
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application()
        app.router.add_get(LOAD_PATH, self._load)
        app.router.add_get(KV_PATH, self._kv)
        app.router.add_post(PREFILL_PATH, self._prefill)
        app.router.add_post(RENEW_PATH, self._renew)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def borrow(self, call: PrefillCall) -> tuple[Granted, list[Announcement]]:
        """What the real pod says to a call, hung up as soon as there is a lease and a block."""
        load = msgspec.json.decode(await self._get(LOAD_PATH), type=Load)
        caller = Caller(self._keys)
        caller.learn(load.session, load.now, time.monotonic())
        body = encode(call)
        claims = caller.claims(PREFILL_PATH, body, time.monotonic())
        reader, said = PieceReader(self._keys, claims.nonce, Announcement), []
        headers = {"Authorization": self._keys.sign(claims)}
        async with (
            aiohttp.ClientSession() as http,
            http.post(self._real + PREFILL_PATH, data=body, headers=headers) as reply,
        ):
            async for data in reply.content.iter_any():
                said += reader.feed(data)
                if len(said) >= 2:
                    break
        assert isinstance(said[0], Granted)
        return said[0], said[1:]

    async def _get(self, path: str) -> bytes:
        headers = {"Authorization": self._keys.sign(query_claims(path))}
        async with aiohttp.ClientSession() as http, http.get(self._real + path, headers=headers) as reply:
            return await reply.read()

    async def _load(self, request: web.Request) -> web.Response:
        load = msgspec.json.decode(await self._get(LOAD_PATH), type=Load)
        mine = msgspec.structs.replace(load, name="impostor", session=self.session, now=time.monotonic())
        return web.Response(body=msgspec.json.encode(mine), content_type="application/json")

    async def _kv(self, request: web.Request) -> web.Response:
        endpoint = msgspec.msgpack.decode(await self._get(KV_PATH), type=KvEndpoint)
        body = encode(self.change_endpoint(msgspec.structs.replace(endpoint, session=self.session)))
        mac = self._own_keys.mac(self._nonce_of(request, b""), 0, body)
        return web.Response(body=body, headers={"X-Penstock-Mac": mac.hex()})

    async def _prefill(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.num_asked += 1
        writer = PieceWriter(self._own_keys, self._nonce_of(request, body))
        reply = web.StreamResponse()
        await reply.prepare(request)
        for announcement in self.lie(msgspec.msgpack.decode(body, type=PrefillCall)):
            await reply.write(writer.write(announcement))
        await reply.write_eof()
        return reply

    async def _renew(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    def _nonce_of(self, request: web.Request, body: bytes) -> bytes:
        header = request.headers["Authorization"].encode()
        session = self.session if body else ""
        return self._keys.verify(header, purpose=request.path, body=body, session=session, now=time.monotonic()).nonce
