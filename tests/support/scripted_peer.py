"""A prefill pod's internal port without an engine behind it: it says what a test wants it to."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import msgspec
from aiohttp import web

from penstock.internal.credentials import ClusterKeys
from penstock.internal.pieces import PieceWriter
from penstock.internal.protocol import (
    KV_PATH,
    LOAD_PATH,
    PREFILL_PATH,
    RENEW_PATH,
    KvEndpoint,
    Load,
    PrefillCall,
    Renewal,
)
from penstock.wire import encode

FINGERPRINT, SESSION = "f" * 32, "s1"


def build_load(**fields) -> Load:
    return Load(
        **{
            "name": "p-0",
            "role": "prefill",
            "model": "m",
            "version": "1",
            "revision": "",
            "fingerprint": FINGERPRINT,
            "session": SESSION,
            "now": time.monotonic(),
            "ready": True,
            "draining": False,
            "stalled": 0.0,
            "running": 0,
            "waiting": 0,
            "queued_tokens": 0,
            "prefill_rate": 1000.0,
            "output_tokens": 0,
            "kv_usage": 0.0,
            "capacity_tokens": 10_000,
            "max_model_len": 10_000,
            "max_num_seqs": 16,
        }
        | fields
    )


class ScriptedPeer:
    """Serves; `on_call(peer, call, tell)` is what happens in a prefill call."""

    def __init__(self, keys: ClusterKeys | None = None) -> None:
        self.keys = keys or ClusterKeys(None)
        self.fields: dict = {}
        self.calls: list[PrefillCall] = []
        self.renewals: list[Renewal] = []
        self.num_open = 0
        self.is_hanging = False  # it takes connections and says nothing, as after SIGSTOP
        self.is_refusing = False  # calls get 503
        self.on_call = None
        self.endpoint_of = self._build_endpoint
        self.renew = self.renewals.append
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _build_endpoint(self) -> KvEndpoint:
        return KvEndpoint(
            fingerprint=self.fields.get("fingerprint", FINGERPRINT),
            session=self.fields.get("session", SESSION),
            agent="a",
            metadata=b"m",
            base=1 << 20,
            block_bytes=64,
            num_blocks=1000,
            lease_base=1 << 30,
            num_leases=4096,
        )

    async def start(self) -> None:
        app = web.Application(middlewares=[self._gate])
        app.router.add_get(LOAD_PATH, self._load)
        app.router.add_get(KV_PATH, self._kv)
        app.router.add_post(PREFILL_PATH, self._prefill)
        app.router.add_post(RENEW_PATH, self._renew)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _gate(self, request, handler):
        if self.is_hanging:
            await asyncio.sleep(60)
        body = await request.read()
        try:
            request["claims"] = self.keys.verify(
                request.headers.get("Authorization", "").encode(),
                purpose=request.path,
                body=body,
                session=self.fields.get("session", SESSION),
                now=time.monotonic(),
            )
        except Exception as error:
            return web.Response(status=401, text=str(error))
        return await handler(request)

    async def _load(self, request):
        return web.Response(body=msgspec.json.encode(build_load(**self.fields)))

    async def _kv(self, request):
        body = encode(self.endpoint_of())
        mac = self.keys.mac(request["claims"].nonce, 0, body)
        return web.Response(body=body, headers={"X-Penstock-Mac": mac.hex()})

    async def _renew(self, request):
        self.renew(msgspec.msgpack.decode(await request.read(), type=Renewal))
        return web.Response(status=204)

    async def _prefill(self, request):
        call = msgspec.msgpack.decode(await request.read(), type=PrefillCall)
        self.calls.append(call)
        if self.is_refusing:
            return web.Response(status=503)
        writer = PieceWriter(self.keys, request["claims"].nonce)
        response = web.StreamResponse()
        await response.prepare(request)

        async def tell(announcement) -> None:
            await response.write(writer.write(announcement))

        self.num_open += 1
        try:
            await self.on_call(call, tell)
        finally:
            self.num_open -= 1
        return response

    async def die(self) -> None:
        """Cut every connection and listen no more."""
        if self._runner is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        await self.stop()


@asynccontextmanager
async def scripted_peer(**options):
    peer = ScriptedPeer(**options)
    await peer.start()
    try:
        yield peer
    finally:
        with suppress(asyncio.CancelledError):
            await peer.stop()
