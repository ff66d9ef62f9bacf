"""Whole messages over a stream socket between two processes that know each other."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading

LENGTH = struct.Struct("<Q")
READ_BYTES = 1 << 18


class Channel:
    """One end of a Unix stream socket that carries byte messages, in order, both ways.

    `EOFError` from any method means that the other side is gone. Both sides may send at once: a `send` that the other
    side does not take yet keeps reading meanwhile, so two large messages cannot wait for each other for ever.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._inbox = bytearray()
        self._buffer = bytearray(READ_BYTES)
        self._reading = threading.Lock()  # over the inbox and the buffer

    def send(self, message: bytes) -> None:
        """Hand over one message; blocks while the other side's buffer is full."""
        pending = memoryview(LENGTH.pack(len(message)) + message)
        while pending:
            try:
                pending = pending[self._socket.send(pending, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self._await_writable()
            except (BrokenPipeError, ConnectionResetError) as error:
                raise EOFError("the other side of the channel is gone") from error

    def receive(self) -> bytes:
        """The next message; blocks until it is there in full."""
        with self._reading:
            while (message := self._take()) is None:
                self._read()
            return message

    def receive_ready(self) -> list[bytes]:
        """The messages that are here in full; never blocks. Before `select`: a `send` may have read some meanwhile."""
        with self._reading:
            self._read(socket.MSG_DONTWAIT)
            messages = []
            while (message := self._take()) is not None:
                messages.append(message)
            return messages

    def is_quiet(self) -> bool:
        """True if the other side has sent nothing that was not received yet; never blocks."""
        with self._reading:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            return not self._inbox and not poller.poll(0)

    def fileno(self) -> int:
        """Of the socket, for `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end; the other side sees `EOFError`."""
        self._socket.close()

    def hang_up(self) -> None:
        """End the conversation: both sides see `EOFError`, also a thread that waits in `receive`."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def _take(self) -> bytes | None:
        """The first whole message of the inbox."""
        if len(self._inbox) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._inbox)[0]
        if len(self._inbox) < end:
            return None
        message = bytes(memoryview(self._inbox)[LENGTH.size : end])
        del self._inbox[:end]
        return message

    def _read(self, flags: int = 0) -> None:
        try:
            count = self._socket.recv_into(self._buffer, flags=flags)
        except BlockingIOError:
            return
        except ConnectionResetError:
            count = 0
        if not count:
            raise EOFError("the other side of the channel is gone")
        self._inbox += memoryview(self._buffer)[:count]

    def _await_writable(self) -> None:
        """Wait until some of a message can go; read what comes meanwhile, unless another thread does that already."""
        may_read = self._reading.acquire(blocking=False)
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT | (select.POLLIN if may_read else 0))
            [(_, events)] = poller.poll()
            if may_read and events & select.POLLIN:
                self._read()
        finally:
            if may_read:
                self._reading.release()
