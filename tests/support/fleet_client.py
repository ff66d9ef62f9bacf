"""Clients that note all they hear: HTTP/1.1 read from raw bytes, so that nothing is repaired on the way."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from support.history import Asked, Event, Heard, History

TIMEOUT = 180.0  # seconds of one request
SLOW_BUFFER = 4096  # bytes


async def ask(
    url: str, asked: Asked, *, timeout: float = TIMEOUT, leave: asyncio.Event | None = None, heard: Heard | None = None
) -> Heard:
    """Send one request and hear it to its end, or until it is time to leave; `heard` is what to write it into."""
    heard = heard or Heard(asked=asked, began=time.monotonic())
    address = urlsplit(url)
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await connect(str(address.hostname), address.port or 80, is_slow=bool(asked.pause))
            try:
                writer.write(request_bytes(address.netloc, asked))
                await hear_until(reader, heard, leave)
            finally:
                writer.transport.abort() if heard.did_leave else writer.close()
    except TimeoutError:
        heard.trouble = f"no end within {timeout:.0f} s"
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        heard.trouble = f"{type(error).__name__}: {error}"
    heard.ended = time.monotonic()
    return heard


async def connect(host: str, port: int, *, is_slow: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A slow reader has small buffers, so that the server feels it."""
    if not is_slow:
        return await asyncio.open_connection(host, port)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, port))
    return await asyncio.open_connection(sock=connection, limit=SLOW_BUFFER)


async def hear_until(reader: asyncio.StreamReader, heard: Heard, leave: asyncio.Event | None) -> None:
    """`hear`, cut short when it is time to leave."""
    if leave is None:
        await hear(reader, heard)
        return
    tasks = [asyncio.create_task(hear(reader, heard)), asyncio.create_task(leave.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    heard.did_leave |= not tasks[0].done()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, OSError | ValueError | asyncio.IncompleteReadError):
            raise outcome


def request_bytes(netloc: str, asked: Asked) -> bytes:
    body = json.dumps(asked.body).encode()
    lines = [
        f"POST {asked.path} HTTP/1.1",
        f"Host: {netloc}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([f"Authorization: Bearer {asked.key}"] if asked.key else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def hear(reader: asyncio.StreamReader, heard: Heard) -> None:
    """The answer's head, then its body: events of a stream, or all of it at once."""
    words = (await reader.readline()).split(maxsplit=2)
    if len(words) < 2:
        heard.trouble = "closed without an answer"
        return
    heard.status = int(words[1])
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        heard.headers[name.lower()] = value.strip()
    if "text/event-stream" not in heard.headers.get("content-type", ""):
        body = b"".join([piece async for piece in body_pieces(reader, heard)])
        heard.events.append(Event(at=time.monotonic(), data=body.decode(errors="replace")))
        return
    pending = b""
    async for piece in body_pieces(reader, heard):
        *whole, pending = (pending + piece).split(b"\n\n")
        now = time.monotonic()
        heard.events += [Event(at=now, data=data_of(event)) for event in whole]
        if heard.asked.leaves_after is not None and len(heard.events) >= heard.asked.leaves_after:
            heard.did_leave = True
            return
        if heard.asked.pause:
            await asyncio.sleep(heard.asked.pause)
    if pending:
        heard.trouble = f"half an event at the end: {pending[:60]!r}"


def data_of(event: bytes) -> str:
    """What follows `data: `; anything else shows as it is, and so as a problem."""
    return event.decode(errors="replace").removeprefix("data: ")


async def body_pieces(reader: asyncio.StreamReader, heard: Heard) -> AsyncIterator[bytes]:
    """The body as it comes; `heard.is_whole` tells whether its coding came to its end."""
    if heard.headers.get("transfer-encoding") != "chunked":
        length = heard.headers.get("content-length")
        body = await (reader.read() if length is None else reader.readexactly(int(length)))
        heard.is_whole = True
        yield body
        return
    while size := int((await reader.readline()).strip() or b"x", 16):
        piece = await reader.readexactly(size)
        await reader.readexactly(2)
        yield piece
    heard.is_whole = True


async def ask_all(url: str, requests: Sequence[Asked], history: History | None = None) -> list[Heard]:
    """All at once; each is added to the history."""
    heard = await asyncio.gather(*(ask(url, asked) for asked in requests))
    for each in heard:
        if history is not None:
            history.add(each)
    return list(heard)
