"""One call of the router to a pod: told with a token, read as it comes, broken off from outside at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from penstock.internal.credentials import ClusterKeys
from penstock.internal.protocol import ROUTE_PATH, RoutedCall
from penstock.router.endpoint import Endpoint
from penstock.wire import encode

KEEP_ALIVE_SECONDS = 4.0  # shorter than a pod keeps a connection, so that no call meets one that is being closed
STALE_SECONDS = 0.2  # a connection that ends this soon after a call, without an answer, had ended before it
PASSED_ON = ("retry-after", "allow")  # headers of a pod's error that the client gets to see
LONGEST_ERROR = 1 << 24  # bytes


class Lost(Exception):
    """The pod is gone, or does not answer any more. `is_death`: the request was with it, and may be the reason."""

    def __init__(self, why: str, *, is_death: bool) -> None:
        super().__init__(why)
        self.is_death = is_death


class Silent(Lost):
    """Nothing is heard of the pod: it hangs, or the way to it is cut, or the machine is too busy."""

    def __init__(self, why: str) -> None:
        super().__init__(why, is_death=True)


class Stalled(Lost):
    """The pod is there, but its engine makes no steps."""

    def __init__(self) -> None:
        super().__init__("the engine makes no steps", is_death=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How a pod's answer begins."""

    status: int
    content_type: bytes
    headers: list[tuple[bytes, bytes]]  # what else the client gets to see


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What calls to pods need."""

    session: aiohttp.ClientSession
    keys: ClusterKeys
    clock: Callable[[], float]

    @classmethod
    def build(cls, keys: ClusterKeys, clock: Callable[[], float]) -> Upstream:
        """With a new pool of connections; needs a running loop."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        )
        return cls(session=session, keys=keys, clock=clock)


class Call:
    """One call, from `open` to `close`."""

    def __init__(self, upstream: Upstream, endpoint: Endpoint, *, may_leave: bool = False) -> None:
        """`may_leave`: it is to end when the pod stalls."""
        self.waiting_since: float | None = None  # seconds; None: nobody waits for the pod
        self.may_leave = may_leave
        self._upstream, self._endpoint = upstream, endpoint
        self._end: Lost | None = None  # it was broken off
        self._reply: aiohttp.ClientResponse | None = None
        self._opening: asyncio.Timeout | None = None
        endpoint.calls.add(self)

    async def open(self, told: RoutedCall) -> Head:
        """Tell the pod; returns how it answers. Raises `Lost`."""
        upstream, body = self._upstream, encode(told)
        began = self.waiting_since = upstream.clock()
        claims = self._endpoint.caller.claims(
            ROUTE_PATH, body, began, request_id=told.request_id, tenant=told.salt or ""
        )
        headers = {
            "Authorization": upstream.keys.sign(claims),
            "Content-Type": "application/x-msgpack",
            "X-Request-Id": told.request_id,
        }
        url = f"http://{self._endpoint.address}{ROUTE_PATH}"
        try:
            async with asyncio.timeout(None) as self._opening:
                if self._end is not None:
                    raise self._end
                self._reply = await upstream.session.post(url, data=body, headers=headers, allow_redirects=False)
        except TimeoutError:
            raise self._end or Lost("broken off", is_death=True) from None
        except aiohttp.ClientConnectorError as error:
            self._endpoint.take_failure(f"cannot connect: {error.os_error.strerror}", is_certain=True)
            raise Lost("cannot connect", is_death=False) from None
        except (aiohttp.ClientError, OSError) as error:
            is_death = upstream.clock() - began > STALE_SECONDS
            raise Lost(f"no answer: {type(error).__name__}", is_death=is_death) from None
        finally:
            self._opening = None
            self.waiting_since = None
        return head_of(self._reply)

    async def read(self) -> bytes:
        """What has come, at least a byte; nothing at the end. Raises `Lost`."""
        reply = self._reply
        assert reply is not None, "read before open"
        if self._end is not None:
            raise self._end
        self.waiting_since = self._upstream.clock()
        try:
            data: bytes = await reply.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._end or Lost(f"connection lost: {type(error).__name__}", is_death=True) from None
        finally:
            self.waiting_since = None
        return data

    async def read_rest(self, limit: int = LONGEST_ERROR) -> bytes:
        """Everything to the end. Raises `Lost`, also for more than `limit` bytes."""
        parts, size = [], 0
        while data := await self.read():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise Lost(f"an answer of more than {limit:,} bytes", is_death=False)
        return b"".join(parts)

    async def finish(self) -> None:
        """Wait for the end of an answer that has said all, so that its connection can be used again."""
        with contextlib.suppress(Lost):
            await self.read()

    def break_off(self, why: str) -> None:
        """End it from outside: whoever waits for it gets `Lost` at once, whoever reads later gets it then."""
        self._break(Lost(why, is_death=True))

    def give_up(self, why: str) -> None:
        """End it because nothing is heard of the pod: whoever waits for it gets `Silent`."""
        self._break(Silent(why))

    def leave(self) -> None:
        """End it because the pod stalls: whoever waits for it gets `Stalled`."""
        self._break(Stalled())

    def _break(self, end: Lost) -> None:
        if self._end is not None:
            return
        self._end = end
        if self._reply is not None:
            self._reply.close()
        elif self._opening is not None:
            self._opening.reschedule(0.0)

    def close(self) -> None:
        """Give the connection back if the answer has ended, else end it, which the pod notices."""
        self._endpoint.calls.discard(self)
        if self._reply is not None:
            self._reply.close() if not self._reply.content.at_eof() else self._reply.release()


def head_of(reply: aiohttp.ClientResponse) -> Head:
    """The status and the headers that matter."""
    headers = [(name.encode(), reply.headers[name].encode()) for name in PASSED_ON if name in reply.headers]
    content_type = reply.headers.get("Content-Type", "application/json").encode()
    return Head(status=reply.status, content_type=content_type, headers=headers)
