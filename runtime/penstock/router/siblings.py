"""The other workers of a router: each Idempotency-Key belongs to one of them, who serves it over a unix socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path

import aiohttp

from penstock.errors import EngineFailure, Overloaded
from penstock.server.exchange import Exchange

SOCKET = "worker-{slot}"
PASSED_ON = (b"authorization", b"content-type", b"idempotency-key", b"x-prefiller-host-port")


class Siblings:
    """The workers of one router, seen from one of them."""

    def __init__(self, folder: Path | None, slot: int, num_workers: int) -> None:
        self._folder, self._slot, self._num_workers = folder, slot, num_workers
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    @property
    def socket_path(self) -> Path | None:
        """Where this worker listens for the others; None if it is alone."""
        return None if self._folder is None else self._folder / SOCKET.format(slot=self._slot)

    def owner(self, tenant: str, key: bytes) -> int | None:
        """The worker who owns a key; None for this one."""
        digest = blake2b(tenant.encode() + b"\n" + key, digest_size=8).digest()
        slot = int.from_bytes(digest, "little") % self._num_workers
        return None if slot == self._slot or self._folder is None else slot

    async def forward(self, owner: int, exchange: Exchange, body: bytes) -> None:
        """Have another worker answer. Raises `Overloaded` if it is not there, `EngineFailure` if it dies at it."""
        url = f"http://router{exchange.path}"
        names = {name: value.decode("latin-1") for name, value in exchange.scope["headers"] if name in PASSED_ON}
        headers = {name.decode(): value for name, value in names.items()} | {"X-Request-Id": exchange.request_id}
        try:
            async with self._session(owner).post(url, data=body, headers=headers) as reply:
                if not reply.content_type.startswith("text/event-stream"):
                    passed = [(b"retry-after", reply.headers["Retry-After"].encode())] * (
                        "Retry-After" in reply.headers
                    )
                    content_type = reply.headers.get("Content-Type", "application/json").encode()
                    await exchange.respond(await reply.read(), content_type, reply.status, passed)
                    return
                await exchange.start_stream()
                await exchange.on_disconnect(_closer(reply))
                async for data in reply.content.iter_any():
                    await exchange.send(data)
                await exchange.end_stream()
        except aiohttp.ClientConnectorError:
            raise Overloaded("the worker that serves this Idempotency-Key starts anew; try again") from None
        except (aiohttp.ClientError, OSError):
            raise EngineFailure("the worker that served this request died; try again") from None

    def _session(self, owner: int) -> aiohttp.ClientSession:
        if owner not in self._sessions:
            assert self._folder is not None, "a worker that is alone has nobody to forward to"
            connector = aiohttp.UnixConnector(str(self._folder / SOCKET.format(slot=owner)), limit=0)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            self._sessions[owner] = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._sessions[owner]

    async def close(self) -> None:
        """Close what is open."""
        for session in self._sessions.values():
            await session.close()


def _closer(reply: aiohttp.ClientResponse) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        reply.close()

    return close
